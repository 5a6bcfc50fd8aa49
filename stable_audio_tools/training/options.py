"""TrainOptions: the files and machines of a run. One table, of which `sat train` and ``train.py`` make their flags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from stable_audio_tools.config.source import Source

Config = str | Path | Mapping[str, Any] | Source
LoggerName = Literal["auto", "wandb", "comet", "tensorboard", "csv", "none"]
FILES, MACHINES, SAVING, SAFETY = "Files", "Machines", "Saving and logging", "Safety"


class Flag(NamedTuple):
    """What makes a field a flag of the command line.

    Attributes:
        help: What it is.
        panel: Heading in the list of flags.
        kind: Type of the flag, where the field accepts more.
        least: Smallest value.
        most: Largest value.
    """

    help: str
    panel: str | None = None
    kind: Any = None
    least: float | None = None
    most: float | None = None


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Files and machines of a run; what the model is and how it learns stands in its config.

    What each field means stands beside it. Configs may be JSON files, the configs themselves, or what `read_source` made of either.
    Those at the end are for callers in Python only: ``run_folder`` is the run's folder itself, instead of one made from ``save_dir``,
    ``name`` and the time.
    """

    model_config: Annotated[Config, Flag("Model config (JSON).", panel=FILES, kind=Path)]
    dataset_config: Annotated[Config, Flag("Dataset config (JSON).", panel=FILES, kind=Path)]
    val_dataset_config: Annotated[Config | None, Flag("Dataset config for validation.", panel=FILES, kind=Path | None)] = None
    ckpt_path: Annotated[str | Path | None, Flag("Training checkpoint to resume.", panel=FILES, kind=Path | None)] = None
    pretrained_ckpt_path: Annotated[str | Path | None, Flag("Unwrapped model to start a new run from.", panel=FILES, kind=Path | None)] = (
        None
    )
    pretransform_ckpt_path: Annotated[
        str | Path | None, Flag("Unwrapped autoencoder for the pretransform.", panel=FILES, kind=Path | None)
    ] = None
    name: Annotated[str, Flag("Names the run's folder, and the project at logging services.")] = "stable_audio_tools"
    recover: Annotated[bool, Flag("Resume the newest good checkpoint of this name, if there is one.")] = False
    batch_size: Annotated[int, Flag("Items per device and step.", least=1)] = 4
    num_workers: Annotated[int, Flag("Processes that load data; 0 loads it in this one.", least=0)] = 6
    seed: Annotated[int, Flag("Of every random stream.", least=0, most=2**32 - 1)] = 42
    accum_batches: Annotated[int, Flag("Batches whose gradients make one step.", least=1)] = 1
    gradient_clip_val: Annotated[float, Flag("Largest gradient norm; 0 does not clip.", least=0)] = 0.0
    max_steps: Annotated[int, Flag("Optimizer steps; -1 trains until stopped.", least=-1)] = -1
    overfit: Annotated[
        bool, Flag("Learn one batch by heart, in 500 steps or --max-steps, and say whether the set-up can learn. Saves nothing.")
    ] = False
    remove_pretransform_weight_norm: Annotated[
        str, Flag("'pre_load' or 'post_load': collapse the pretransform's weight norm before or after loading.")
    ] = ""
    precision: Annotated[str, Flag("auto, 32, 16-mixed, bf16-mixed, ...", panel=MACHINES)] = "auto"
    accelerator: Annotated[str, Flag("auto, cuda, mps or cpu.", panel=MACHINES)] = "auto"
    devices: Annotated[str | int, Flag("How many devices, which ('0,2'), or auto.", panel=MACHINES, kind=str)] = "auto"
    num_nodes: Annotated[int, Flag("Machines.", panel=MACHINES, least=1)] = 1
    strategy: Annotated[str, Flag("auto, ddp, fsdp, deepspeed (ZeRO 2), deepspeed_stage_3, ...", panel=MACHINES)] = "auto"
    compile: Annotated[bool, Flag("Compile the model's blocks with torch.compile, where that works.", panel=MACHINES)] = False
    gradient_checkpointing: Annotated[
        bool, Flag("Recompute activations in the backward pass: less memory, a third more time.", panel=MACHINES)
    ] = False
    checkpoint_every: Annotated[int, Flag("Steps between checkpoints.", panel=SAVING, least=1)] = 10000
    save_top_k: Annotated[int, Flag("How many of the latest checkpoints to keep; -1 keeps all.", panel=SAVING, least=-1)] = -1
    save_best: Annotated[int, Flag("How many checkpoints with the best --monitor to keep besides.", panel=SAVING, least=0)] = 0
    monitor: Annotated[str, Flag("What is best: a number of validation; auto is its loss.", panel=SAVING)] = "auto"
    monitor_mode: Annotated[Literal["min", "max"], Flag("Whether small or large is best.", panel=SAVING)] = "min"
    val_every: Annotated[int, Flag("Steps between validations; -1: once per pass.", panel=SAVING, least=-1)] = -1
    save_dir: Annotated[str | Path, Flag("Where run folders go.", panel=SAVING, kind=str)] = "runs"
    logger: Annotated[LoggerName, Flag("auto: TensorBoard and CSV, and Weights & Biases if logged in there.", panel=SAVING)] = "auto"
    on_nan: Annotated[
        Literal["stop", "skip", "rollback"],
        Flag("When a loss is not finite: stop, skip the batch, or go back to the last checkpoint's weights.", panel=SAFETY),
    ] = "stop"
    force: Annotated[bool, Flag("Start although memory or disk seem not to suffice.", panel=SAFETY)] = False
    run_folder: str | Path | None = None
    demos: bool = True
    show_progress: bool = True
    callbacks: Sequence[Any] = field(default_factory=tuple)  # of Lightning
