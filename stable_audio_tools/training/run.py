"""train(): one training run, from files to a folder with checkpoints, demos and curves."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.accelerators import CPUAccelerator
from pytorch_lightning.callbacks import TQDMProgressBar
from pytorch_lightning.plugins.environments import LightningEnvironment
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import nn

from stable_audio_tools.checkpoint import Checkpoint, initialise_from, load_pretransform_weights, require_fit, require_wrapped
from stable_audio_tools.config.check import parse_model_config
from stable_audio_tools.config.model import ModelConfig
from stable_audio_tools.config.source import Source, read_source
from stable_audio_tools.data.base import Summarised
from stable_audio_tools.data.dataset import create_dataloader_from_config
from stable_audio_tools.errors import CheckpointError, ConfigError
from stable_audio_tools.models.factory import create_model_from_config
from stable_audio_tools.models.layers.conv import remove_weight_norm_from_model
from stable_audio_tools.models.layers.parameters import count_parameters
from stable_audio_tools.optional import require
from stable_audio_tools.registry.schema import without_comments
from stable_audio_tools.training.adapters import adapter_source, attach_for_training, trains_adapter
from stable_audio_tools.training.base import TrainingWrapper
from stable_audio_tools.training.checkpointing import AtomicCheckpointIO, CheckpointCallback, find_checkpoints
from stable_audio_tools.training.factory import create_demo_callback_from_config, create_training_wrapper_from_config
from stable_audio_tools.training.log_sinks import LoggerName, hyperparameters, make_loggers, require_package

logger = logging.getLogger(__name__)
Config = str | Path | Mapping[str, Any] | Source
OPTIMIZER_KEYS = ("training.optimizer_configs", "training.learning_rate")
PRECISIONS = {"16": "16-mixed", "bf16": "bf16-mixed", "32": "32-true", "64": "64-true"}  # names that older scripts use


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Files and machines of a run; what the model is and how it learns stands in its config.

    Attributes:
        model_config: JSON file, or the config itself, or what `read_source` made of either.
        dataset_config: JSON file, or the config itself.
        val_dataset_config: The same, for validation.
        name: Names the run's folder, and the project at services.
        save_dir: Where run folders go; ``runs`` if it is empty.
        run_folder: The run's folder itself, instead of one made from ``save_dir``, ``name`` and the time.
        ckpt_path: Training checkpoint to resume.
        pretrained_ckpt_path: Unwrapped model to start from.
        pretransform_ckpt_path: Unwrapped autoencoder for the pretransform.
        recover: Resume the checkpoint with this name that was written last, if there is one.
        batch_size: Items per device and step.
        num_workers: Processes that load data.
        seed: Of every random stream.
        precision: Lightning's name of a precision; ``auto`` is 16-mixed on CUDA, 32-true elsewhere.
        accelerator: Lightning's name of a kind of device.
        devices: How many devices, or which; ``auto`` is all there are (one process on a CPU).
        num_nodes: Machines.
        strategy: Lightning's name of a distribution strategy.
        accum_batches: Batches whose gradients make one step.
        gradient_clip_val: Largest gradient norm; 0 does not clip.
        max_steps: Optimizer steps; -1 trains until stopped.
        checkpoint_every: Steps between checkpoints.
        save_top_k: How many of the latest checkpoints to keep; -1 keeps all.
        val_every: Steps between validations; -1 validates at the end of every pass, if there is validation data.
        logger: Where numbers and demos are logged, besides the run's folder.
        remove_pretransform_weight_norm: ``pre_load`` or ``post_load``: collapse the pretransform's weight norm before or after loading.
        demos: Whether to make demos.
        show_progress: Whether to show a progress bar.
        callbacks: Further callbacks.
    """

    model_config: Config
    dataset_config: Config
    val_dataset_config: Config | None = None
    name: str = "stable_audio_tools"
    save_dir: str | Path = "runs"
    run_folder: str | Path | None = None
    ckpt_path: str | Path | None = None
    pretrained_ckpt_path: str | Path | None = None
    pretransform_ckpt_path: str | Path | None = None
    recover: bool = False
    batch_size: int = 4
    num_workers: int = 4
    seed: int = 42
    precision: str = "auto"
    accelerator: str = "auto"
    devices: str | int = "auto"
    num_nodes: int = 1
    strategy: str = "auto"
    accum_batches: int = 1
    gradient_clip_val: float = 0.0
    max_steps: int = -1
    checkpoint_every: int = 10000
    save_top_k: int = -1
    val_every: int = -1
    logger: LoggerName = "auto"
    remove_pretransform_weight_norm: str = ""
    demos: bool = True
    show_progress: bool = True
    callbacks: Sequence[pl.Callback] = field(default_factory=tuple)


class ProgressBar(TQDMProgressBar):
    """Lightning's bar, without the version number of a logger."""

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """Numbers beside the bar."""
        return {key: value for key, value in super().get_metrics(trainer, pl_module).items() if key != "v_num"}


@dataclass(frozen=True)
class TrainResult:
    """What a run left behind.

    Attributes:
        folder: The run's folder.
        checkpoint: The last checkpoint.
        wrapper: The training wrapper, with the trained model in it.
        step: Optimizer steps made in all.
        stop_signal: The signal that ended the run early, or None.
        is_main: Whether this is the first process of the run, or the only one.
    """

    folder: Path
    checkpoint: Path | None
    wrapper: TrainingWrapper
    step: int
    stop_signal: int | None
    is_main: bool = True


def train(options: TrainOptions) -> TrainResult:
    """Train a model as its config says.

    Everything that can be checked without data or a model is checked first. The run's folder then holds ``model_config.json``,
    ``dataset_config.json``, ``checkpoints/``, ``demos/``, ``metrics/`` (CSV) and ``tensorboard/``.

    Raises:
        ConfigError: With every mistake in the configs.
        CheckpointError: If a checkpoint is of the wrong kind or does not fit.
        DataError: If there is no usable data.
    """
    source = read_source(options.model_config, name="model config")
    parse_model_config(source, strict=True)
    source = adapter_source(source)
    options = replace(options, model_config=source)  # read once: the file may change while the run is set up
    config = parse_model_config(source, strict=True)
    _refuse_impossible(options)
    options = replace(options, dataset_config=read_source(options.dataset_config, name="dataset config"))
    if config.training is None or config.sample_size is None:
        missing = "training" if config.training is None else "sample_size"
        raise ConfigError(f"{source.name}: {missing}: required for training, and missing")
    ckpt_path = options.ckpt_path or (_newest_checkpoint(Path(options.save_dir or "runs") / options.name) if options.recover else None)
    checkpoint = require_wrapped(ckpt_path) if ckpt_path is not None else None
    pl.seed_everything(options.seed, workers=True, verbose=False)  # the same for all processes, which build the same model

    loader = _loader(options, config, options.dataset_config, shuffle=True)
    validation = None
    if options.val_dataset_config is not None:
        validation = _loader(options, config, options.val_dataset_config, shuffle=False)
    model = create_model_from_config(source.data)
    _load_weights(model, options)
    adapter = attach_for_training(model, config)
    wrapper = create_training_wrapper_from_config(source, model)
    if adapter is not None:
        adapter.share_base(wrapper)
        options = replace(options, callbacks=[*options.callbacks, adapter.callback()])
    if checkpoint is not None:
        require_fit(wrapper, checkpoint) if adapter is None else adapter.require_fit(wrapper, checkpoint)
        _compare_configs(checkpoint, source.data)
        if -1 < options.max_steps <= checkpoint.extra.get("global_step", 0):
            step = checkpoint.extra["global_step"]
            logger.warning("%s is at step %d, so --max-steps %d leaves nothing to do", ckpt_path, step, options.max_steps)
        del checkpoint  # Lightning reads it again
    folder = _run_folder(options, ckpt_path)
    trainer, checkpoints = _trainer(options, config, wrapper, folder, has_validation=validation is not None)
    _write_configs(options, folder)
    for line in describe(model, wrapper):
        logger.info(line)
    logger.info("run folder: %s; %d batches of %d per pass", folder, len(loader), options.batch_size)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*in eval mode at the start of training.*")
        warnings.filterwarnings("ignore", message=".*smaller than the logging interval.*")
        warnings.filterwarnings("ignore", message=".*have no `val_dataloader`.*")
        warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*")
        trainer.fit(wrapper, loader, validation, ckpt_path=str(ckpt_path) if ckpt_path else None)
    if adapter is not None and trainer.global_step and checkpoints.stop_signal is None:
        adapter.require_change(trainer.global_step)
    if isinstance(loader.dataset, Summarised):
        logger.log(logging.WARNING if loader.dataset.num_unreadable else logging.INFO, "data: %s", loader.dataset.summary())
    return TrainResult(
        checkpoints.folder.parent, checkpoints.last_path, wrapper, trainer.global_step, checkpoints.stop_signal, trainer.is_global_zero
    )


def describe(model: nn.Module, wrapper: TrainingWrapper) -> list[str]:
    """The parts of a model: how large they are and whether they are trained."""
    lines = [f"{type(model).__name__}: {count_parameters(model) / 1e6:.2f} M parameters"]
    for name, part in model.named_children():
        total, trained = count_parameters(part), count_parameters(part, trainable_only=True)
        if total:
            state = "trained" if trained == total else "frozen" if not trained else f"{trained / 1e6:.2f} M trained"
            lines.append(f"  {name}: {total / 1e6:.2f} M, {state}")
    if wrapper.ema is not None:
        lines.append(f"  EMA copy: {count_parameters(wrapper.ema) / 1e6:.2f} M")
    return lines


def _refuse_impossible(options: TrainOptions) -> None:
    """Refuse what cannot work whatever the data and the model are, before any of them is read."""
    if options.run_folder is None and (Path(options.name).name != options.name or options.name in ("", "..")):
        raise ConfigError(f"--name {options.name!r}: names the run's folder below --save-dir: write a name without '/'")
    for flag, value in (("--max-steps", options.max_steps), ("--save-top-k", options.save_top_k)):
        if value < 1 and value != -1:
            raise ConfigError(f"{flag} is at least 1, or -1 for {'no limit' if flag == '--max-steps' else 'all'}, got {value}")
    if not 0 <= options.seed < 2**32:
        raise ConfigError(f"--seed lies between 0 and {2**32 - 1}, got {options.seed}")
    if options.remove_pretransform_weight_norm not in ("", "pre_load", "post_load"):
        raise ConfigError(
            f"--remove-pretransform-weight-norm is 'pre_load' or 'post_load', got {options.remove_pretransform_weight_norm!r}"
        )
    if options.ckpt_path and options.pretrained_ckpt_path and not trains_adapter(read_source(options.model_config)):
        raise ConfigError("--ckpt-path goes on with a run and its weights, --pretrained-ckpt-path starts a new one: give one of them")
    folder = Path(options.run_folder or options.save_dir or "runs").absolute()
    if not next(path for path in (folder, *folder.parents) if path.exists()).is_dir():
        raise ConfigError(f"--save-dir {folder}: is a file, or lies in one; give a folder")
    require_package(options.logger)
    if options.strategy.startswith("deepspeed"):
        require("deepspeed", extra="deepspeed", purpose="--strategy deepspeed")
    if options.val_every > 0 and options.val_dataset_config is None:
        logger.warning("--val-every %d has no effect without --val-dataset-config", options.val_every)
    try:
        trainer = _bare_trainer(options)
    except (MisconfigurationException, ValueError, TypeError, ModuleNotFoundError) as error:
        asked = f"--accelerator {options.accelerator} --devices {options.devices} --strategy {options.strategy}"
        raise ConfigError(f"{asked} --precision {options.precision}: cannot be had here: {error}") from error
    cores = os.cpu_count() or 1
    if isinstance(trainer.accelerator, CPUAccelerator) and trainer.num_devices > cores:
        raise ConfigError(f"--devices {options.devices}: each is a process on a CPU, and this machine has {cores} cores")
    environment = getattr(trainer.strategy, "cluster_environment", None)
    if options.num_nodes > 1 and isinstance(environment, LightningEnvironment) and "MASTER_ADDR" not in os.environ:
        raise ConfigError(
            f"--num-nodes {options.num_nodes}: the processes would wait for each other forever; start them with srun or torchrun, or set "
            "MASTER_ADDR, MASTER_PORT and NODE_RANK on each machine"
        )


def _compare_configs(checkpoint: Checkpoint, data: Any) -> None:
    """Say how the config differs from the one of the checkpoint. What a resumed run takes from the checkpoint must not differ."""
    before = checkpoint.extra.get("model_config")
    if not isinstance(before, Mapping):
        return
    old, new = hyperparameters(without_comments(before)), hyperparameters(without_comments(data))
    changed = {key: f"{key}: {old.get(key, 'absent')} -> {new.get(key, 'absent')}" for key in old | new if old.get(key) != new.get(key)}
    fixed = [text for key, text in changed.items() if key.startswith(OPTIMIZER_KEYS) or key.endswith(".enable_grad")]
    if fixed:
        raise CheckpointError(
            f"{checkpoint.path}: a resumed run has the optimizer and schedule of its checkpoint, but the config has changed: "
            f"{'; '.join(fixed[:8])}. Undo that, or make a model of the checkpoint with unwrap_model.py and start from that with "
            "--pretrained-ckpt-path"
        )
    if changed:
        logger.warning("the config is not the one of %s: %s", checkpoint.path, "; ".join([*changed.values()][:8]))


def _newest_checkpoint(folder: Path) -> Path | None:
    for path in sorted(find_checkpoints(folder), key=lambda path: path.stat().st_mtime_ns, reverse=True):
        try:
            require_wrapped(path)
        except CheckpointError as error:
            logger.warning("not recovering from it: %s", error)
            continue
        logger.info("recovering from %s", path)
        return path
    logger.info("nothing to recover in %s: starting afresh", folder)
    return None


def _loader(options: TrainOptions, config: ModelConfig, dataset_config: Config, *, shuffle: bool) -> Any:
    assert config.sample_size is not None
    return create_dataloader_from_config(
        dataset_config,
        batch_size=options.batch_size,
        sample_size=config.sample_size,
        sample_rate=config.sample_rate,
        audio_channels=config.audio_channels,
        num_workers=options.num_workers,
        shuffle=shuffle,
        seed=options.seed,
    )


def _load_weights(model: nn.Module, options: TrainOptions) -> None:
    if options.pretrained_ckpt_path:
        initialise_from(model, options.pretrained_ckpt_path)
    pretransform = getattr(model, "pretransform", None)
    wants_pretransform = options.pretransform_ckpt_path or options.remove_pretransform_weight_norm
    if wants_pretransform and (pretransform is None or not hasattr(pretransform, "model")):
        raise ConfigError("--pretransform-ckpt-path and --remove-pretransform-weight-norm need a model with an 'autoencoder' pretransform")
    if options.remove_pretransform_weight_norm == "pre_load":
        remove_weight_norm_from_model(pretransform)  # type: ignore[arg-type]
    if options.pretransform_ckpt_path:
        load_pretransform_weights(pretransform, options.pretransform_ckpt_path)  # type: ignore[arg-type]
    if options.remove_pretransform_weight_norm == "post_load":
        remove_weight_norm_from_model(pretransform)  # type: ignore[arg-type]


def _run_folder(options: TrainOptions, ckpt_path: str | Path | None) -> Path:
    if options.run_folder is not None:
        return Path(options.run_folder)
    if ckpt_path is not None and Path(ckpt_path).resolve().parent.name == "checkpoints":
        return Path(ckpt_path).resolve().parent.parent  # a resumed run goes on in its folder
    stamp = os.environ.get("SLURM_JOB_ID") or datetime.now().strftime("%Y%m%d-%H%M%S")
    return Path(options.save_dir or "runs") / options.name / stamp


@rank_zero_only
def _write_configs(options: TrainOptions, folder: Path) -> None:
    for name, config in (("model_config", options.model_config), ("dataset_config", options.dataset_config)):
        target = folder / f"{name}.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(read_source(config).data, indent=2) + "\n", encoding="utf-8")


def _precision(options: TrainOptions, accelerator: str) -> Any:
    asked = PRECISIONS.get(str(options.precision), str(options.precision))
    has_cuda = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    if asked == "auto":
        return "16-mixed" if has_cuda else "32-true"
    if asked == "16-mixed" and not has_cuda:
        logger.warning("precision 16-mixed needs CUDA: using bf16-mixed, which this device can compute")
        return "bf16-mixed"
    return asked


def _machines(options: TrainOptions) -> dict[str, Any]:
    """Lightning's names for what to run on."""
    on_cpu = options.accelerator == "cpu" or (
        options.accelerator == "auto" and not torch.cuda.is_available() and not torch.backends.mps.is_available()
    )
    return {
        "accelerator": options.accelerator,
        "devices": 1 if options.devices == "auto" and on_cpu else options.devices,
        "num_nodes": options.num_nodes,
        "strategy": options.strategy or "auto",
        "precision": _precision(options, options.accelerator),
    }


def _bare_trainer(options: TrainOptions) -> pl.Trainer:
    """A trainer to ask what Lightning makes of the options."""
    return pl.Trainer(**_machines(options), logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)


def _with_strategy(options: TrainOptions, wrapper: TrainingWrapper) -> TrainOptions:
    """Processes that average gradients wait for all of them, unless they are told that some steps leave some out."""
    if not wrapper.has_idle_parameters or options.strategy not in ("", "auto", "ddp"):
        return options
    is_ddp = isinstance(_bare_trainer(options).strategy, DDPStrategy)
    return replace(options, strategy="ddp_find_unused_parameters_true") if is_ddp else options


def _trainer(
    options: TrainOptions, config: ModelConfig, wrapper: TrainingWrapper, folder: Path, *, has_validation: bool
) -> tuple[pl.Trainer, CheckpointCallback]:
    if not wrapper.automatic_optimization and (options.accum_batches != 1 or options.gradient_clip_val):
        raise ConfigError(f"--accum-batches and --gradient-clip-val have no effect on model_type {config.model_type!r} yet; leave them out")
    options = _with_strategy(options, wrapper)
    data = read_source(options.model_config).data
    checkpoints = CheckpointCallback(folder / "checkpoints", options.checkpoint_every, keep_last=options.save_top_k, model_config=data)
    callbacks = [*options.callbacks]
    demo = create_demo_callback_from_config(options.model_config) if options.demos else None
    if demo is not None:
        callbacks.append(demo)
    callbacks.append(checkpoints)
    if options.show_progress:
        callbacks.append(ProgressBar(refresh_rate=1 if sys.stderr.isatty() else 100))
    loggers = make_loggers(options.logger, folder=folder, project=options.name, run_id=folder.name)
    for sink in loggers:
        sink.log_hyperparams(
            hyperparameters({**data, "seed": options.seed, "batch_size": options.batch_size, "started": time.strftime("%F %T")})
        )
    trainer = pl.Trainer(
        **_machines(options),
        accumulate_grad_batches=options.accum_batches,
        gradient_clip_val=options.gradient_clip_val or None,
        max_steps=options.max_steps,
        max_epochs=10_000_000 if options.max_steps == -1 else -1,
        val_check_interval=options.val_every if options.val_every > 0 and has_validation else None,
        check_val_every_n_epoch=None if options.val_every > 0 and has_validation else 1,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        logger=loggers or False,
        callbacks=callbacks,
        plugins=[AtomicCheckpointIO()],
        enable_checkpointing=False,
        enable_progress_bar=options.show_progress,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=str(folder),
    )
    return trainer, checkpoints
