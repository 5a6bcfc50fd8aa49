"""Facts about a module's parameters."""

from __future__ import annotations

import torch
from torch import nn


def dtype_of(module: nn.Module, default: torch.dtype = torch.float32) -> torch.dtype:
    """Data type of a module's first floating-point parameter or buffer; ``default`` if it has none (a fixed transform)."""
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            return tensor.dtype
    return default


def halve_parameters(module: nn.Module) -> None:
    """Multiply all parameters by 0.5: how several published networks start training."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(0.5)


def count_parameters(module: nn.Module, *, trainable_only: bool = False) -> int:
    """Number of parameters, shared ones once."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trainable_only)
