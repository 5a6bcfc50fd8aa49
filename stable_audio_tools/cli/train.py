"""``sat train`` and ``train.py``: train a model as its config says."""

from __future__ import annotations

import ast
import configparser
import logging
import shlex
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.registry import closest

if TYPE_CHECKING:
    from stable_audio_tools.config.source import Source
    from stable_audio_tools.training.run import TrainResult

log = logging.getLogger(__name__)
Files, Machines, Saving, Adapters = "Files", "Machines", "Saving and logging", "Adapters"


class LoggerChoice(str, Enum):
    """Where numbers and demos are logged."""

    auto = "auto"
    wandb = "wandb"
    comet = "comet"
    tensorboard = "tensorboard"
    csv = "csv"
    none = "none"


def read_defaults(path: Path, known: list[str]) -> dict[str, Any]:
    """Defaults of options from an INI file: ``name = value``, values written as in Python.

    Raises:
        ConfigError: If the file is missing or names an option that does not exist.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; --config-file names an INI file with default options, such as defaults.ini")
    parser = configparser.ConfigParser(inline_comment_prefixes=("#", ";"), interpolation=None)
    try:
        parser.read_string(path.read_text(encoding="utf-8"), source=str(path))
    except (configparser.Error, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split()).removesuffix(f" file: '{path}'")
        raise ConfigError(f"{path}: is not an INI file: {reason}") from error
    values: dict[str, Any] = {}
    for section in (parser.default_section, *parser.sections()):
        for key, text in parser[section].items():
            name = key.replace("-", "_")
            if name not in known:
                guess = closest(name, known)
                raise ConfigError(f"{path}: unknown option {key!r}{f'; did you mean {guess!r}?' if guess else ''}")
            try:
                value = ast.literal_eval(text)
            except (ValueError, SyntaxError):
                value = text
            if value not in ("", None):
                values[name] = str(value)
    return values


def load_defaults(context: typer.Context, path: Path | None) -> Path | None:
    """Callback of ``--config-file``: what the file says becomes the default of every option that is not given."""
    if path is not None:
        known = [parameter.name for parameter in context.command.params if parameter.name]
        context.default_map = {**(context.default_map or {}), **read_defaults(path, known)}
    return path


def train(
    model_config: Annotated[Path, typer.Option(help="Model config (JSON).", rich_help_panel=Files)],
    dataset_config: Annotated[Path, typer.Option(help="Dataset config (JSON).", rich_help_panel=Files)],
    val_dataset_config: Annotated[Path | None, typer.Option(help="Dataset config for validation.", rich_help_panel=Files)] = None,
    name: Annotated[str, typer.Option(help="Names the run's folder, and the project at logging services.")] = "stable_audio_tools",
    config_file: Annotated[
        Path | None,
        typer.Option(help="INI file with defaults of these options.", is_eager=True, callback=load_defaults, rich_help_panel=Files),
    ] = None,
    ckpt_path: Annotated[Path | None, typer.Option(help="Training checkpoint to resume.", rich_help_panel=Files)] = None,
    pretrained_ckpt_path: Annotated[
        Path | None, typer.Option(help="Unwrapped model to start a new run from.", rich_help_panel=Files)
    ] = None,
    pretransform_ckpt_path: Annotated[
        Path | None, typer.Option(help="Unwrapped autoencoder for the pretransform.", rich_help_panel=Files)
    ] = None,
    recover: Annotated[bool, typer.Option(help="Resume the newest checkpoint of this name, if there is one.")] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Items per device and step.")] = 4,
    num_workers: Annotated[int, typer.Option(min=0, help="Processes that load data; 0 loads it in this one.")] = 6,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of every random stream.")] = 42,
    precision: Annotated[str, typer.Option(help="auto, 32, 16-mixed, bf16-mixed, ...", rich_help_panel=Machines)] = "auto",
    accelerator: Annotated[str, typer.Option(help="auto, cuda, mps or cpu.", rich_help_panel=Machines)] = "auto",
    devices: Annotated[str, typer.Option(help="How many devices, which ('0,2'), or auto.", rich_help_panel=Machines)] = "auto",
    num_gpus: Annotated[int | None, typer.Option(min=1, help="Same as --devices, for older scripts.", rich_help_panel=Machines)] = None,
    num_nodes: Annotated[int, typer.Option(min=1, help="Machines.", rich_help_panel=Machines)] = 1,
    strategy: Annotated[str, typer.Option(help="auto, ddp, ...", rich_help_panel=Machines)] = "auto",
    accum_batches: Annotated[int, typer.Option(min=1, help="Batches whose gradients make one step.")] = 1,
    gradient_clip_val: Annotated[float, typer.Option(min=0, help="Largest gradient norm; 0 does not clip.")] = 0.0,
    max_steps: Annotated[int, typer.Option(min=-1, help="Optimizer steps; -1 trains until stopped.")] = -1,
    checkpoint_every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.", rich_help_panel=Saving)] = 10000,
    save_top_k: Annotated[
        int, typer.Option(min=-1, help="How many of the latest checkpoints to keep; -1 keeps all.", rich_help_panel=Saving)
    ] = -1,
    val_every: Annotated[int, typer.Option(min=-1, help="Steps between validations; -1: once per pass.", rich_help_panel=Saving)] = -1,
    save_dir: Annotated[str, typer.Option(help="Where run folders go.", rich_help_panel=Saving)] = "runs",
    logger: Annotated[
        LoggerChoice,
        typer.Option(help="auto: TensorBoard and CSV, and Weights & Biases if logged in there.", rich_help_panel=Saving),
    ] = LoggerChoice.auto,
    wandb_config: Annotated[str | None, typer.Option(help="Has no effect; older scripts give it.", hidden=True)] = None,
    project: Annotated[str | None, typer.Option(help="Same as --name, for older scripts.", hidden=True)] = None,
    adapter: Annotated[
        str | None,
        typer.Option(
            help="Train an adapter instead of the model: its kind ('sat list adapters'), 'config' for what the config says, or lora if it "
            "says nothing, or 'none' for the model whatever the config says.",
            rich_help_panel=Adapters,
        ),
    ] = None,
    adapter_rank: Annotated[int | None, typer.Option(min=1, help="Capacity and size of the adapter (8).", rich_help_panel=Adapters)] = None,
    adapter_alpha: Annotated[float | None, typer.Option(help="Scale times rank (the rank).", rich_help_panel=Adapters)] = None,
    adapter_targets: Annotated[
        list[str] | None,
        typer.Option(help="Patterns of layer names, separated by commas; by default all of the network.", rich_help_panel=Adapters),
    ] = None,
    adapter_from: Annotated[
        Path | None, typer.Option("--adapter-from", "--lora-ckpt-path", help="Adapter file to start from.", rich_help_panel=Adapters)
    ] = None,
    remove_pretransform_weight_norm: Annotated[
        str, typer.Option(help="'pre_load' or 'post_load': collapse the pretransform's weight norm before or after loading.")
    ] = "",
) -> None:
    """Train a model, or fine-tune one (--pretrained-ckpt-path), or go on with a run (--ckpt-path, --recover).

    The run's folder, below --save-dir, gets checkpoints, demos, and curves for TensorBoard. Ctrl-C or SIGTERM saves a checkpoint and stops.
    """
    if num_gpus is not None and devices not in ("auto", str(num_gpus)):
        raise ConfigError(f"--num-gpus {num_gpus} and --devices {devices} say different things; give one of them")
    from stable_audio_tools.cli.main import quiet_lightning
    from stable_audio_tools.config.check import parse_model_config
    from stable_audio_tools.config.source import read_source

    if wandb_config is not None:
        log.warning("--wandb-config has no effect; Weights & Biases reads its settings from WANDB_... environment variables")
    source = read_source(model_config)
    parse_model_config(source, strict=True)  # mistakes are told before anything heavy is imported
    source = _with_adapter(source, adapter, adapter_rank, adapter_alpha, adapter_targets, adapter_from)
    from pytorch_lightning.utilities import rank_zero_only

    from stable_audio_tools.training.run import TrainOptions
    from stable_audio_tools.training.run import train as run

    quiet_lightning()
    if rank_zero_only.rank:  # pyright: ignore[reportFunctionMemberAccess]
        logging.getLogger("stable_audio_tools").setLevel(logging.WARNING)  # the first process says it
    result = run(
        TrainOptions(
            model_config=source,
            dataset_config=dataset_config,
            val_dataset_config=val_dataset_config,
            name=project or name,
            save_dir=save_dir,
            ckpt_path=ckpt_path,
            pretrained_ckpt_path=pretrained_ckpt_path,
            pretransform_ckpt_path=pretransform_ckpt_path,
            recover=recover,
            batch_size=batch_size,
            num_workers=num_workers,
            seed=seed,
            precision=precision,
            accelerator=accelerator,
            devices=num_gpus if num_gpus is not None else _devices(devices),
            num_nodes=num_nodes,
            strategy=strategy,
            accum_batches=accum_batches,
            gradient_clip_val=gradient_clip_val,
            max_steps=max_steps,
            checkpoint_every=checkpoint_every,
            save_top_k=save_top_k,
            val_every=val_every,
            logger=logger.value,  # type: ignore[arg-type]
            remove_pretransform_weight_norm=remove_pretransform_weight_norm,
        )
    )
    _tell(result, model_config)


def _with_adapter(
    source: Source, kind: str | None, rank: int | None, alpha: float | None, targets: list[str] | None, start_from: Path | None
) -> Source:
    """The config with what the flags say about an adapter; checked again if they say something."""
    from stable_audio_tools.config.check import parse_model_config
    from stable_audio_tools.config.training.adapters import with_adapter

    names = ("--adapter-rank", "--adapter-alpha", "--adapter-targets", "--adapter-from")
    given = [name for name, value in zip(names, (rank, alpha, targets, start_from), strict=True) if value is not None]
    if kind is None and not given:
        return source
    if kind == "none" and given:
        raise ConfigError(f"{given[0]} has no effect with --adapter none; leave one of them out")
    flags: dict[str, Any] = {} if kind in (None, "config") else {"type": kind}
    options = {name: value for name, value in (("rank", rank), ("alpha", alpha)) if value is not None}
    if options:
        flags["config"] = options
    if targets is not None:
        flags["targets"] = [part.strip() for text in targets for part in text.split(",") if part.strip()]
    if start_from is not None:
        flags["start_from"] = str(start_from)
    source = source._replace(data=with_adapter(source.data, flags))
    parse_model_config(source, strict=True)
    return source


def _tell(result: TrainResult, model_config: Path) -> None:
    """Say what the run left and what to do with it; only once, whatever the number of its processes."""
    if not result.is_main:
        raise typer.Exit(128 + result.stop_signal if result.stop_signal is not None else 0)
    if result.checkpoint is not None:
        print(f"last checkpoint: {result.checkpoint}")
    if result.stop_signal is not None:
        print(f"stopped at step {result.step}; go on with --ckpt-path {shlex.quote(str(result.checkpoint))}")
        raise typer.Exit(128 + result.stop_signal)
    file = result.folder / "adapters" / f"step={result.step}.safetensors"
    if file.exists():
        print(f"adapter: {file}; use it with: sat generate ... --lora {shlex.quote(str(file))}")
    elif result.checkpoint is not None:
        files = f"--model-config {shlex.quote(str(model_config))} --ckpt-path {shlex.quote(str(result.checkpoint))}"
        print(f"make a model of it with: sat unwrap {files} --name my_model")


def _devices(text: str) -> str | int:
    return int(text) if text.isdigit() else text


def script_lora() -> None:
    """Entry point of ``train_lora.py``: like `script`, for an adapter: the one in the config, or else a LoRA."""
    import sys

    if not any(argument == "--adapter" or argument.startswith("--adapter=") for argument in sys.argv):
        sys.argv += ["--adapter", "config"]
    script()


def script() -> None:
    """Entry point of ``train.py``: `train` with the defaults of ``defaults.ini`` beside the script."""
    import sys

    from stable_audio_tools.cli.main import script_of

    for flag in [index for index, argument in enumerate(sys.argv[:-1]) if argument == "--recover"]:
        if sys.argv[flag + 1].lower() in ("true", "false"):  # older scripts give a value
            sys.argv[flag : flag + 2] = ["--recover" if sys.argv[flag + 1].lower() == "true" else "--no-recover"]
    if not any(argument.startswith("--config-file") for argument in sys.argv):
        beside = Path(sys.argv[0]).resolve().parent / "defaults.ini"
        if beside.is_file():
            sys.argv[1:1] = ["--config-file", str(beside)]
    script_of(train)
