"""Schedule-free AdamW: averages its iterates instead of letting the learning rate decay."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from stable_audio_tools.config.base import Betas, NonNegativeFloat, NonNegativeInt
from stable_audio_tools.optional import require
from stable_audio_tools.training.optims.base import OPTIMIZERS, Params


@OPTIMIZERS.register("AdamWScheduleFree")
def adamw_schedule_free(
    params: Params,
    lr: NonNegativeFloat = 0.0025,
    betas: Betas = (0.9, 0.999),
    eps: NonNegativeFloat = 1e-8,
    weight_decay: NonNegativeFloat = 0.0,
    warmup_steps: NonNegativeInt = 0,
    r: NonNegativeFloat = 0.0,
    weight_lr_power: NonNegativeFloat = 2.0,
) -> torch.optim.Optimizer:
    """AdamW that averages its iterates instead of letting the learning rate decay, so that no length of the run has to be chosen.

    Of the package ``schedulefree``. Validation, demos and checkpoints have the averaged weights.
    Source: Defazio et al. 2024, "The road less scheduled", arXiv:2405.15682.

    Args:
        params: Parameters or groups.
        lr: Learning rate, one to ten times that of AdamW with a schedule.
        betas: Of the interpolation between iterates and average, and of the average of the squared gradient.
        eps: Added to the root of the squares' average.
        weight_decay: Times the learning rate.
        warmup_steps: Steps over which the learning rate grows.
        r: Power of the step in the average's weights.
        weight_lr_power: Power of the learning rate in them.
    """
    module = require("schedulefree", extra="optimizers", purpose="the optimizer 'AdamWScheduleFree'")
    return module.AdamWScheduleFree(
        params, lr=lr, betas=tuple(betas), eps=eps, weight_decay=weight_decay, warmup_steps=warmup_steps, r=r,
        weight_lr_power=weight_lr_power,
    )  # fmt: skip


@contextmanager
def averaged_iterates(optimizers: Iterable[Any]) -> Iterator[None]:
    """While it is open, parameters of schedule-free optimizers have their averaged values. Others are left alone."""
    switched = [optimizer for optimizer in map(_bare, optimizers) if hasattr(optimizer, "eval") and hasattr(optimizer, "train")]
    training = [optimizer for optimizer in switched if any(group.get("train_mode", True) for group in optimizer.param_groups)]
    for optimizer in training:
        optimizer.eval()
    try:
        yield
    finally:
        for optimizer in training:
            optimizer.train()


def start_training(optimizers: Iterable[Any]) -> None:
    """Let schedule-free optimizers train: they begin, and are saved, with averaged values."""
    for optimizer in map(_bare, optimizers):
        if hasattr(optimizer, "train") and hasattr(optimizer, "eval"):
            optimizer.train()


def _bare(optimizer: Any) -> Any:
    return getattr(optimizer, "optimizer", optimizer)
