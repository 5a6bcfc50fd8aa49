"""Fully sharded training: weights, gradients and optimizer states are spread over the GPUs, block by block.

The average of the weights stays whole on every GPU: blocks of both would be cut at other places, and could not be paired.
"""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.strategies import FSDPStrategy
from torch import nn

from stable_audio_tools.models.layers.transformer import TransformerBlock
from stable_audio_tools.training.base import TrainingWrapper


class WholeAverage(pl.Callback):
    """Gathers the weights while their average follows them."""

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Tell the average how to see the whole model."""
        from torch.distributed.fsdp import FullyShardedDataParallel

        if isinstance(pl_module, TrainingWrapper) and pl_module.ema is not None and isinstance(trainer.strategy, FSDPStrategy):
            pl_module.ema.whole_model = lambda: FullyShardedDataParallel.summon_full_params(trainer.strategy.model, writeback=False)  # type: ignore[arg-type]


def make_fsdp_strategy(module: nn.Module | None = None, **options: Any) -> FSDPStrategy:
    """Lightning's strategy, with a shard per transformer block and checkpoints that are one whole file.

    Args:
        module: The training wrapper; its average is not spread.
        **options: Of `FSDPStrategy`; they win.
    """
    average = module.ema if isinstance(module, TrainingWrapper) else None
    settings: dict[str, Any] = {
        "auto_wrap_policy": {TransformerBlock},
        "sharding_strategy": "FULL_SHARD",
        "state_dict_type": "full",
        "use_orig_params": True,
        "limit_all_gathers": True,
        **({"ignored_modules": [average]} if average is not None else {}),
    }
    return FSDPStrategy(**{**settings, **options})


def create_fsdp_strategy_and_callback(module: nn.Module | None = None, **options: Any) -> tuple[FSDPStrategy, pl.Callback]:
    """The strategy, and the callback that it needs, for a trainer of one's own.

    Args:
        module: The training wrapper; its average is not spread.
        **options: Of `FSDPStrategy`; they win.
    """
    return make_fsdp_strategy(module, **options), WholeAverage()
