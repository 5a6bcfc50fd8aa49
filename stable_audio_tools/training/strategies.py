"""Distribution strategies by name: how the processes of a run share the work."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.strategies import DDPStrategy, DeepSpeedStrategy, Strategy

from stable_audio_tools.training.base import TrainingWrapper
from stable_audio_tools.training.fsdp import WholeAverage, make_fsdp_strategy

BUCKET = int(5e8)  # elements that ZeRO sends at once


def make_strategy(name: str, wrapper: TrainingWrapper, probe: pl.Trainer) -> str | Strategy:
    """What Lightning's trainer gets for a strategy.

    Args:
        name: ``auto``, ``ddp``, ``fsdp``, ``deepspeed`` (ZeRO 2), ``deepspeed_stage_3``, or another name of Lightning's.
        wrapper: What is trained.
        probe: A trainer with the same options: what ``auto`` comes to.
    """
    if name == "fsdp":
        return make_fsdp_strategy(wrapper)
    if name in ("deepspeed", "deepspeed_stage_2", "deepspeed_stage_3"):
        return DeepSpeedStrategy(**zero_options(3 if name.endswith("3") else 2))
    # Processes that average gradients wait for all of them, unless they are told that some steps leave some out.
    if name in ("", "auto", "ddp") and wrapper.has_idle_parameters and isinstance(probe.strategy, DDPStrategy):
        return "ddp_find_unused_parameters_true"
    return name or "auto"


def callbacks_of(name: str) -> list[pl.Callback]:
    """What a trainer with that strategy needs besides."""
    return [WholeAverage()] if name == "fsdp" else []


def zero_options(stage: int) -> dict[str, Any]:
    """Arguments of Lightning's DeepSpeed strategy: optimizer states and gradients are spread (stage 2), weights too (stage 3)."""
    return {
        "stage": stage,
        "contiguous_gradients": True,
        "overlap_comm": True,
        "reduce_bucket_size": BUCKET,
        "allgather_bucket_size": BUCKET,
    }
