"""Time first or channels first."""

from __future__ import annotations

from torch import Tensor, nn


class Transpose(nn.Module):
    """Swaps time and channels, between transformers and convolutions."""

    def forward(self, x: Tensor) -> Tensor:  # (B, L, D) <-> (B, D, L)
        return x.transpose(1, 2)
