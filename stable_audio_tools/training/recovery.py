"""What a run goes on from: the last good checkpoint, and whether the config still fits it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stable_audio_tools.checkpoint import Checkpoint, require_wrapped
from stable_audio_tools.errors import CheckpointError
from stable_audio_tools.registry.schema import without_comments
from stable_audio_tools.training.checkpointing import find_checkpoints
from stable_audio_tools.training.log_sinks import hyperparameters

logger = logging.getLogger(__name__)
FIXED = ("training.optimizer_configs", "training.learning_rate", "training.train")  # what a resumed run takes from its checkpoint


def last_good_checkpoint(folder: Path) -> Path | None:
    """The checkpoint in a folder, or below it, that was written last and can be read and trained on; others are warned about."""
    for path in sorted(find_checkpoints(folder), key=lambda path: path.stat().st_mtime_ns, reverse=True):
        try:
            checkpoint = require_wrapped(path)
        except CheckpointError as error:
            logger.warning("not recovering from it: %s", error)
            continue
        broken = next((name for name, value in checkpoint.state_dict.items() if not _is_finite(value)), None)
        if broken is not None:
            logger.warning("not recovering from it: %s: its weights are not finite (%s)", path, broken)
            continue
        logger.info("recovering from %s", path)
        return path
    logger.info("nothing to recover in %s: starting afresh", folder)
    return None


def _is_finite(value: Tensor) -> bool:
    return not value.is_floating_point() or bool(torch.isfinite(value).all())


def compare_configs(checkpoint: Checkpoint, data: Any) -> None:
    """Say how the config differs from the one of the checkpoint. What a resumed run takes from the checkpoint must not differ.

    Raises:
        CheckpointError: If it does.
    """
    before = checkpoint.extra.get("model_config")
    if not isinstance(before, Mapping):
        return
    old, new = hyperparameters(without_comments(before)), hyperparameters(without_comments(data))
    changed = {key: f"{key}: {old.get(key, 'absent')} -> {new.get(key, 'absent')}" for key in old | new if old.get(key) != new.get(key)}
    fixed = [text for key, text in changed.items() if key.startswith(FIXED) or key.endswith(".enable_grad")]
    if fixed:
        raise CheckpointError(
            f"{checkpoint.path}: a resumed run has the optimizer and schedule of its checkpoint, but the config has changed: "
            f"{'; '.join(fixed[:8])}. Undo that, or make a model of the checkpoint with unwrap_model.py and start from that with "
            "--pretrained-ckpt-path"
        )
    if changed:
        logger.warning("the config is not the one of %s: %s", checkpoint.path, "; ".join([*changed.values()][:8]))
