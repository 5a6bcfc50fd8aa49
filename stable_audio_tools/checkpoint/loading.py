"""Loading files into models: for inference, as a pretransform, to start from, to resume."""

from __future__ import annotations

import logging
from pathlib import Path

from torch import nn

from stable_audio_tools.checkpoint.fitting import LoadReport, assign_state_dict, compare_state_dict, copy_matching
from stable_audio_tools.checkpoint.kinds import DESCRIPTIONS, Checkpoint, kind_of, refuse_other_model, some, unwrap_state_dict
from stable_audio_tools.checkpoint.reading import read_checkpoint
from stable_audio_tools.errors import CheckpointError

logger = logging.getLogger(__name__)


def load_model_weights(model: nn.Module, path: str | Path, *, use_ema: bool = True) -> LoadReport:
    """Load a model completely, for inference. A training checkpoint is unwrapped on the way.

    Raises:
        CheckpointError: If the file is of another kind of model, or lacks a tensor.
    """
    checkpoint = read_checkpoint(path)
    kind = kind_of(model.state_dict())
    state_dict = checkpoint.state_dict
    if checkpoint.kind == "wrapped":
        refuse_other_model(checkpoint, model.state_dict())
        state_dict = unwrap_state_dict(state_dict, use_ema=use_ema, path=checkpoint.path)
        checkpoint = checkpoint._replace(kind=kind_of(state_dict))
        logger.info(
            "%s: a training checkpoint; took the %s", path, "averaged weights where there are some" if use_ema else "online weights"
        )
    if checkpoint.kind not in (kind, "unknown"):
        raise checkpoint.wrong_kind(DESCRIPTIONS[kind], "this model")
    report = compare_state_dict(model, state_dict)
    if not report.is_complete:
        raise CheckpointError(f"{path}: does not fit the model: {report}; was it made with this config?")
    copy_matching(model, state_dict)
    logger.info("%s: %s", path, report)
    return report


def assign_weights(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Give a model the weights of a file, without copying where the data types agree. A training checkpoint is unwrapped on the way.

    Raises:
        CheckpointError: If a tensor is missing, of another shape, or has no place in the model.
    """
    state_dict = checkpoint.state_dict
    if checkpoint.kind == "wrapped":
        state_dict = unwrap_state_dict(state_dict, path=checkpoint.path)
        logger.info("%s: a training checkpoint; took the averaged weights where there are some", checkpoint.path)
    report = compare_state_dict(model, state_dict)
    if not report.is_complete or report.unexpected:
        wrong = {kind_of(state_dict), kind_of(model.state_dict())}
        hint = "; it belongs to another kind of model" if len(wrong - {"unknown"}) > 1 else ""
        raise CheckpointError(f"{checkpoint.path}: does not fit its config: {report}{hint}")
    assign_state_dict(model, state_dict)


def initialise_from(model: nn.Module, path: str | Path, *, flag: str = "--pretrained-ckpt-path", min_share: float = 0.5) -> LoadReport:
    """Start a new run from an unwrapped model, which may differ from this one in parts.

    Args:
        model: The model to fill.
        path: An unwrapped model.
        flag: The option that named it, for messages.
        min_share: Smallest share of the model's weights that must fit.

    Raises:
        CheckpointError: If the file is of another kind, or too little of it fits.
    """
    checkpoint = read_checkpoint(path)
    kind = kind_of(model.state_dict())
    if checkpoint.kind != kind and not (checkpoint.kind == "unknown" or kind == "unknown"):
        raise checkpoint.wrong_kind(DESCRIPTIONS[kind], flag)
    report = compare_state_dict(model, checkpoint.state_dict)
    if report.matched_share < min_share:
        raise CheckpointError(f"{path}: does not fit the model: {report}; {flag} wants a model with mostly the same config")
    copy_matching(model, checkpoint.state_dict)
    logger.log(logging.INFO if report.is_complete else logging.WARNING, "%s: %s", path, report)
    return report


def load_pretransform_weights(pretransform: nn.Module, path: str | Path, *, flag: str = "--pretransform-ckpt-path") -> LoadReport:
    """Load an autoencoder into the pretransform of another model, completely.

    Args:
        pretransform: A pretransform whose autoencoder is its ``model``.
        path: An unwrapped autoencoder.
        flag: The option that named it, for messages.

    Raises:
        CheckpointError: If the file is not an autoencoder, or lacks a tensor.
    """
    checkpoint = read_checkpoint(path)
    if checkpoint.kind not in ("autoencoder", "unknown"):
        raise checkpoint.wrong_kind("an autoencoder (unwrapped)", flag)
    autoencoder = pretransform.get_submodule("model")
    report = compare_state_dict(autoencoder, checkpoint.state_dict)
    if not report.is_complete:
        raise CheckpointError(f"{path}: does not fit the pretransform's autoencoder: {report}")
    copy_matching(autoencoder, checkpoint.state_dict)
    logger.info("%s: %s", path, report)
    return report


def require_wrapped(path: str | Path, *, flag: str = "--ckpt-path") -> Checkpoint:
    """Read a training checkpoint to resume from.

    Raises:
        CheckpointError: If it is something else.
    """
    if Path(path).is_dir():
        raise CheckpointError(
            f"{path}: is a folder, as --strategy deepspeed writes it, which {flag} cannot resume; make a model of it with "
            "'sat unwrap', and start from that with --pretrained-ckpt-path"
        )
    checkpoint = read_checkpoint(path)
    if checkpoint.kind != "wrapped":
        raise checkpoint.wrong_kind("a training checkpoint to resume", flag)
    if "loops" not in checkpoint.extra:
        raise CheckpointError(
            f"{path}: holds the weights of a training checkpoint, but not the state of its run, which {flag} needs to resume it; make a "
            "model of it with unwrap_model.py, and start from that with --pretrained-ckpt-path"
        )
    return checkpoint


def require_fit(wrapper: nn.Module, checkpoint: Checkpoint, *, flag: str = "--ckpt-path") -> None:
    """Refuse the training checkpoint of another model, before anything is restored from it.

    Raises:
        CheckpointError: If it is of another kind of model, or a tensor is missing, of another shape, or has no place.
    """
    refuse_other_model(checkpoint, wrapper.state_dict())
    report = compare_state_dict(wrapper, checkpoint.state_dict)
    if report.unexpected and report.is_complete:
        raise CheckpointError(
            f"{checkpoint.path}: holds what this run does not keep ({some(report.unexpected)}), as checkpoints of another config "
            "do; that run cannot be resumed here: make a model of it with unwrap_model.py, and start from that "
            "with --pretrained-ckpt-path"
        )
    if not report.is_complete:
        raise CheckpointError(f"{checkpoint.path}: does not fit this run: {report}; {flag} resumes a run with the same model config")
