"""train(): one training run, from files to a folder with checkpoints, demos and curves."""

from __future__ import annotations

import json
import logging
import os
import warnings
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_only
from torch import nn

from stable_audio_tools.checkpoint import LoadReport, initialise_from, load_pretransform_weights, require_fit, require_wrapped
from stable_audio_tools.config.check import parse_model_config
from stable_audio_tools.config.model import ModelConfig
from stable_audio_tools.config.pairing import refuse_confusion
from stable_audio_tools.config.source import read_source
from stable_audio_tools.data.base import Summarised
from stable_audio_tools.data.dataset import create_dataloader_from_config
from stable_audio_tools.errors import CheckpointError, ConfigError, TrainingError
from stable_audio_tools.models.factory import create_model_from_config
from stable_audio_tools.models.layers.conv import remove_weight_norm_from_model
from stable_audio_tools.models.pretransforms.autoencoder import AutoencoderPretransform
from stable_audio_tools.training.acceleration import compile_blocks, recompute_activations
from stable_audio_tools.training.adapters import TrainedAdapter, adapter_source, attach_for_training, trains_adapter
from stable_audio_tools.training.base import TrainingWrapper
from stable_audio_tools.training.checkpointing import CheckpointCallback
from stable_audio_tools.training.factory import create_demo_callback_from_config, create_training_wrapper_from_config
from stable_audio_tools.training.foreign import adapt, is_foreign
from stable_audio_tools.training.inventory import describe
from stable_audio_tools.training.metrics import create_metrics_callback_from_config
from stable_audio_tools.training.options import Config, TrainOptions
from stable_audio_tools.training.preflight import SMALLER, Preflight, checkpoint_bytes, disk_line, steps_line
from stable_audio_tools.training.recovery import compare_configs, last_good_checkpoint
from stable_audio_tools.training.strategies import callbacks_of
from stable_audio_tools.training.trainer import bare_trainer, make_trainer, refuse_impossible

logger = logging.getLogger(__name__)


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


@dataclass(frozen=True)
class Setup:
    """What a run is made of, once everything is read.

    Attributes:
        options: With configs that are read.
        config: The model's.
        loader: Of training data.
        validation: Of validation data, if there is some.
        wrapper: What is trained.
        adapted: The checkpoint that it goes on from, as ours, if another program wrote it.
        adapter: What is trained instead of the model.
        start: The step that it begins at.
    """

    options: TrainOptions
    config: ModelConfig
    loader: Any
    validation: Any
    wrapper: TrainingWrapper
    adapted: dict[Path, dict[str, Any]]
    adapter: TrainedAdapter | None = None
    start: int = 0


def set_up(options: TrainOptions) -> Setup:
    """Read the configs and the data, and build what is trained.

    Everything that can be checked without data or a model is checked first.

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
    refuse_impossible(options)
    options = replace(options, dataset_config=read_source(options.dataset_config, name="dataset config"))
    if config.training is None or config.sample_size is None:
        missing = "training" if config.training is None else "sample_size"
        raise ConfigError(f"{source.name}: {missing}: required for training, and missing")
    for dataset_config in (options.dataset_config, options.val_dataset_config):
        if dataset_config is not None:
            refuse_confusion(config, read_source(dataset_config, name="dataset config"))
    if options.recover:
        found = last_good_checkpoint(Path(options.save_dir or "runs") / options.name)
        options = replace(options, ckpt_path=options.ckpt_path or found)
    checkpoint = require_wrapped(options.ckpt_path) if options.ckpt_path else None
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
    wrapper.guard.policy = options.on_nan
    adapted: dict[Path, dict[str, Any]] = {}
    if checkpoint is not None:
        is_ours = adapter is not None or not is_foreign(checkpoint)
        if not is_ours and options.strategy == "fsdp":
            raise CheckpointError(
                f"{checkpoint.path}: another program's, which --strategy fsdp cannot resume; make a model of it with sat unwrap, and start "
                "from that with --pretrained-ckpt-path"
            )
        if is_ours:
            require_fit(wrapper, checkpoint) if adapter is None else adapter.require_fit(wrapper, checkpoint)
        compare_configs(checkpoint, source.data)
        if not is_ours:
            adapted = {Path(checkpoint.path): adapt(checkpoint, wrapper, source.data)}
        if -1 < options.max_steps <= checkpoint.extra.get("global_step", 0):
            step = checkpoint.extra["global_step"]
            logger.warning("%s is at step %d, so --max-steps %d leaves nothing to do", options.ckpt_path, step, options.max_steps)
    if options.gradient_checkpointing:
        recompute_activations(wrapper)
    if options.compile:
        compile_blocks(model, bare_trainer(options).strategy.root_device)
    start = int(checkpoint.extra.get("global_step", 0)) if checkpoint is not None else 0
    return Setup(options, config, loader, validation, wrapper, adapted, adapter, start)


def train(options: TrainOptions) -> TrainResult:
    """Train a model as its config says.

    The run's folder then holds ``model_config.json``, ``dataset_config.json``, ``report.txt``, ``checkpoints/``, ``demos/``, ``metrics/``
    (CSV) and ``tensorboard/``.

    Raises:
        ConfigError: With every mistake in the configs, or if memory or disk will not do.
        CheckpointError: If a checkpoint is of the wrong kind or does not fit.
        DataError: If there is no usable data.
        TrainingError: If the run cannot go on.
    """
    setup = set_up(options)
    options, wrapper, loader = setup.options, setup.wrapper, setup.loader
    folder = _run_folder(options)
    preflight = Preflight(options, folder / "report.txt")
    adapter = setup.adapter
    each = checkpoint_bytes(wrapper, adapter.kept(wrapper, wrapper.state_dict()) if adapter is not None else None)
    lines = [
        *describe(wrapper.model, wrapper, adapter.parameters if adapter is not None else ()),
        disk_line(options, each, folder, setup.start),
    ]
    data = read_source(options.model_config).data
    checkpoints = CheckpointCallback(
        folder / "checkpoints", options.checkpoint_every, keep_last=options.save_top_k, model_config=data,
        keep_best=options.save_best, monitor=options.monitor, largest=options.monitor_mode == "max",
    )  # fmt: skip
    demo = create_demo_callback_from_config(options.model_config) if options.demos else None
    metrics = create_metrics_callback_from_config(options.model_config)
    made = [callback for callback in (demo, metrics) if callback is not None]
    around = [*options.callbacks, *made, *callbacks_of(options.strategy)]
    callbacks = [*around, preflight, checkpoints]  # demos are no part of the first forward pass
    trainer = make_trainer(options, wrapper, folder, data, callbacks, has_validation=setup.validation is not None, adapted=setup.adapted)
    _write_configs(options, folder)
    if trainer.is_global_zero:
        for line in lines:
            preflight.say(line)
        preflight.say(steps_line(options, len(loader), trainer.world_size, drops_rest=getattr(loader, "drop_last", False)))
        preflight.say(f"run folder: {folder}")
    fit(trainer, setup)
    if adapter is not None and trainer.global_step and checkpoints.stop_signal is None:
        adapter.require_change(trainer.global_step)
    if isinstance(loader.dataset, Summarised):
        logger.log(logging.WARNING if loader.dataset.num_unreadable else logging.INFO, "data: %s", loader.dataset.summary())
    return TrainResult(
        checkpoints.folder.parent, checkpoints.last_path, wrapper, trainer.global_step, checkpoints.stop_signal, trainer.is_global_zero
    )


def fit(trainer: pl.Trainer, setup: Setup, batches: Any = None) -> None:
    """Train, without the warnings that tell a user of ours nothing.

    Args:
        trainer: The trainer.
        setup: What to train, and on what.
        batches: Instead of the data.

    Raises:
        TrainingError: If memory runs out.
    """
    path = setup.options.ckpt_path
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*in eval mode at the start of training.*")
        warnings.filterwarnings("ignore", message=".*smaller than the logging interval.*")
        warnings.filterwarnings("ignore", message=".*have no `val_dataloader`.*")
        warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*")
        warnings.filterwarnings("ignore", message=".*`training_step` returned `None`.*")  # a batch that was skipped, which we have said
        try:
            if batches is not None:
                trainer.fit(setup.wrapper, batches)
            else:
                trainer.fit(setup.wrapper, setup.loader, setup.validation, ckpt_path=str(path) if path else None)
        except torch.OutOfMemoryError as error:
            raise TrainingError(f"step {trainer.global_step}: the device has no memory left; try {SMALLER} ({error})") from error


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
    report = initialise_from(model, options.pretrained_ckpt_path) if options.pretrained_ckpt_path else None
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
    _tell_what_is_random(pretransform, options, report)


def _tell_what_is_random(pretransform: nn.Module | None, options: TrainOptions, report: LoadReport | None) -> None:
    """Say what has random weights, which is a common cause of hours of noise."""
    if options.ckpt_path:
        return
    if report is None:
        level = logging.WARNING if trains_adapter(read_source(options.model_config)) else logging.INFO
        logger.log(level, "the model starts from random weights; --pretrained-ckpt-path starts from a model")
    lacks_autoencoder = report is None or any(key.startswith("pretransform.") for key in (*report.missing, *report.mismatched))
    is_frozen = isinstance(pretransform, AutoencoderPretransform) and not pretransform.enable_grad
    if is_frozen and lacks_autoencoder and not options.pretransform_ckpt_path:
        logger.warning(
            "the pretransform's autoencoder has random weights and is not trained, so demos and generated audio will be noise; give "
            "--pretransform-ckpt-path, or a --pretrained-ckpt-path that holds it"
        )


def _run_folder(options: TrainOptions) -> Path:
    ckpt_path = options.ckpt_path
    if options.run_folder is not None:
        return Path(options.run_folder)
    if ckpt_path is not None and Path(ckpt_path).resolve().parent.name in ("checkpoints", "best"):
        return Path(ckpt_path).resolve().parent.parent  # a resumed run goes on in its folder
    folder, job = Path(options.save_dir or "runs") / options.name, os.environ.get("SLURM_JOB_ID")
    return folder / job if job else _new_folder(folder / datetime.now().strftime("%Y%m%d-%H%M%S"))


def _new_folder(wanted: Path) -> Path:
    """The folder, made by the first process; with a number if another run has begun within the same second."""
    folder, number = wanted, 2
    while rank_zero_only.rank == 0:  # type: ignore[attr-defined]
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            folder, number = wanted.with_name(f"{wanted.name}-{number}"), number + 1
        else:
            break
    return folder


@rank_zero_only
def _write_configs(options: TrainOptions, folder: Path) -> None:
    for name, config in (("model_config", options.model_config), ("dataset_config", options.dataset_config)):
        target = folder / f"{name}.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(read_source(config).data, indent=2) + "\n", encoding="utf-8")
