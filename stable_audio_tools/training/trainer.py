"""The trainer of a run: what Lightning is told, and what is refused before anything is read."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.accelerators import CPUAccelerator
from pytorch_lightning.callbacks import TQDMProgressBar
from pytorch_lightning.callbacks.progress.tqdm_progress import convert_inf
from pytorch_lightning.plugins.environments import LightningEnvironment
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from stable_audio_tools.config.source import read_source
from stable_audio_tools.errors import ConfigError
from stable_audio_tools.optional import require
from stable_audio_tools.training.adapters import trains_adapter
from stable_audio_tools.training.base import TrainingWrapper
from stable_audio_tools.training.checkpointing import AtomicCheckpointIO
from stable_audio_tools.training.log_sinks import hyperparameters, make_loggers, require_package
from stable_audio_tools.training.options import TrainOptions
from stable_audio_tools.training.players import AlternatingWrapper
from stable_audio_tools.training.strategies import make_strategy

logger = logging.getLogger(__name__)
PRECISIONS = {"16": "16-mixed", "bf16": "bf16-mixed", "32": "32-true", "64": "64-true"}  # names that older scripts use


class ProgressBar(TQDMProgressBar):
    """Lightning's bar, without the version number of a logger, and in batches where several make a step."""

    @property
    def total_train_batches(self) -> int | float:
        """Batches of this pass; Lightning's own stops at as many as steps are left."""
        trainer = self.trainer
        batches = trainer.num_training_batches
        if trainer.max_steps < 0:
            return batches
        left = trainer.max_steps - trainer.global_step
        per_step = max(trainer.accumulate_grad_batches, getattr(trainer.lightning_module, "accum_batches", 1))
        return min(batches, trainer.fit_loop.batch_idx + 1 + left * per_step)

    def on_train_start(self, trainer: pl.Trainer, *args: Any) -> None:
        """Say how long the pass is also when a run goes on in the middle of one."""
        super().on_train_start(trainer, *args)
        self.train_progress_bar.total = convert_inf(self.total_train_batches)

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """Numbers beside the bar."""
        return {key: value for key, value in super().get_metrics(trainer, pl_module).items() if key != "v_num"}


def refuse_impossible(options: TrainOptions) -> None:
    """Refuse what cannot work whatever the data and the model are, before any of them is read.

    Raises:
        ConfigError: Saying which flags.
        MissingExtraError: If a package is missing.
    """
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
    if options.save_best and options.val_dataset_config is None:
        raise ConfigError(f"--save-best {options.save_best} goes by a number of validation: give --val-dataset-config")
    if options.on_nan == "rollback" and options.strategy.startswith(("fsdp", "deepspeed")):
        raise ConfigError(f"--on-nan rollback does not work with --strategy {options.strategy}, which spreads weights; use stop or skip")
    folder = Path(options.run_folder or options.save_dir or "runs").absolute()
    if not next(path for path in (folder, *folder.parents) if path.exists()).is_dir():
        raise ConfigError(f"--save-dir {folder}: is a file, or lies in one; give a folder")
    require_package(options.logger)
    if options.strategy.startswith("deepspeed"):
        require("deepspeed", extra="deepspeed", purpose="--strategy deepspeed")
    if options.val_every > 0 and options.val_dataset_config is None:
        logger.warning("--val-every %d has no effect without --val-dataset-config", options.val_every)
    _refuse_machines(options)


def _refuse_machines(options: TrainOptions) -> None:
    try:
        trainer = bare_trainer(options)
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


def precision_of(options: TrainOptions) -> Any:
    """Lightning's name of the precision."""
    asked = PRECISIONS.get(str(options.precision), str(options.precision))
    has_cuda = options.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    if asked == "auto":
        return "16-mixed" if has_cuda else "32-true"
    if asked == "16-mixed" and not has_cuda:
        logger.warning("precision 16-mixed needs CUDA: using bf16-mixed, which this device can compute")
        return "bf16-mixed"
    return asked


def machines(options: TrainOptions) -> dict[str, Any]:
    """Lightning's names for what to run on."""
    on_cpu = options.accelerator == "cpu" or (
        options.accelerator == "auto" and not torch.cuda.is_available() and not torch.backends.mps.is_available()
    )
    return {
        "accelerator": options.accelerator,
        "devices": 1 if options.devices == "auto" and on_cpu else options.devices,
        "num_nodes": options.num_nodes,
        "strategy": options.strategy or "auto",
        "precision": precision_of(options),
    }


def bare_trainer(options: TrainOptions, **more: Any) -> pl.Trainer:
    """A trainer without anything around it: to ask what Lightning makes of the options, or to train without leaving a trace."""
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    return pl.Trainer(**{**machines(options), **quiet, **more})


def steps_of(options: TrainOptions, wrapper: TrainingWrapper) -> dict[str, Any]:
    """Lightning's names for what to run on, and for how batches become steps of a wrapper.

    Raises:
        ConfigError: If the wrapper cannot do what was asked.
    """
    is_automatic = wrapper.automatic_optimization
    if isinstance(wrapper, AlternatingWrapper):  # Lightning leaves both to wrappers that step their optimizers themselves
        wrapper.accum_batches = options.accum_batches
        wrapper.gradient_clip_val = options.gradient_clip_val or wrapper.gradient_clip_val
    elif not is_automatic and (options.accum_batches != 1 or options.gradient_clip_val):
        raise ConfigError(f"--accum-batches and --gradient-clip-val have no effect on {type(wrapper).__name__}; leave them out")
    return {
        **machines(options),
        "strategy": make_strategy(options.strategy, wrapper, bare_trainer(options)),
        "accumulate_grad_batches": options.accum_batches if is_automatic else 1,
        "gradient_clip_val": options.gradient_clip_val or None if is_automatic else None,
    }


def make_trainer(
    options: TrainOptions,
    wrapper: TrainingWrapper,
    folder: Path,
    data: Any,
    callbacks: Sequence[pl.Callback],
    *,
    has_validation: bool,
    adapted: Mapping[Path, Mapping[str, Any]] | None = None,
) -> pl.Trainer:
    """The trainer of a run.

    Args:
        options: Its options.
        wrapper: What is trained.
        folder: The run's.
        data: The model's config, for loggers.
        callbacks: All but the progress bar.
        has_validation: Whether there is validation data.
        adapted: Checkpoints of another program, as ours.

    Raises:
        ConfigError: If the wrapper cannot do what was asked.
    """
    steps = steps_of(options, wrapper)
    loggers = make_loggers(options.logger, folder=folder, project=options.name, run_id=folder.name)
    for sink in loggers:
        sink.log_hyperparams(
            hyperparameters({**data, "seed": options.seed, "batch_size": options.batch_size, "started": time.strftime("%F %T")})
        )
    bar = [ProgressBar(refresh_rate=1 if sys.stderr.isatty() else 100)] if options.show_progress else []
    return pl.Trainer(
        **steps,
        max_steps=options.max_steps,
        max_epochs=10_000_000 if options.max_steps == -1 else -1,
        val_check_interval=options.val_every if options.val_every > 0 and has_validation else None,
        check_val_every_n_epoch=None if options.val_every > 0 and has_validation else 1,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        logger=loggers or False,
        callbacks=[*callbacks, *bar],
        plugins=[AtomicCheckpointIO(adapted)],
        enable_checkpointing=False,
        enable_progress_bar=options.show_progress,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=str(folder),
    )
