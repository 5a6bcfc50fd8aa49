"""Memory for time: activations that are computed again in the backward pass, instead of being kept for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def recomputed(part: Callable[..., Any], *inputs: Any, is_on: bool, **options: Any) -> Any:
    """``part(*inputs, **options)``, of which the backward pass keeps the inputs only if ``is_on``. Numbers stay the same."""
    if is_on and torch.is_grad_enabled():
        return checkpoint(part, *inputs, use_reentrant=False, **options)
    return part(*inputs, **options)


class Recomputing(nn.Module):
    """A block that can be `recomputed` in training. Subclasses implement `compute` instead of ``forward``.

    Attributes:
        checkpointing: Whether it is; a training setting.
    """

    checkpointing = False

    def compute(self, *inputs: Any) -> Tensor:
        """What the block does."""
        raise NotImplementedError

    def forward(self, *inputs: Any) -> Tensor:
        return recomputed(self.compute, *inputs, is_on=self.checkpointing and self.training)
