"""ConvNeXt blocks over time. After Liu et al. 2022, arXiv:2201.03545, in one dimension as in Vocos, arXiv:2306.00814."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution, norm, widen, GELU, narrow, on a residual branch with a small learned gain.

    Args:
        dim: Channels.
        mult: How much wider the middle is.
        kernel_size: Of the depthwise convolution, odd.
        init_scale: Gain of the branch at the start.
    """

    def __init__(self, dim: int, mult: int = 3, kernel_size: int = 7, init_scale: float = 0.1) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(dim, dim, kernel_size, padding=kernel_size // 2, groups=dim)
        self.norm = nn.LayerNorm(dim)
        self.widen = nn.Linear(dim, mult * dim)
        self.narrow = nn.Linear(mult * dim, dim)
        self.scale = nn.Parameter(torch.full((dim,), init_scale))

    def forward(self, x: Tensor) -> Tensor:  # (B, C, L) -> (B, C, L)
        h = self.norm(self.depthwise(x).transpose(1, 2))  # (B, L, C)
        h = self.narrow(F.gelu(self.widen(h))) * self.scale
        return x + h.transpose(1, 2)
