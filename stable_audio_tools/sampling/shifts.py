"""Distribution shifts: move times towards noise for long sequences, whose structure survives more noise."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from stable_audio_tools.families import SHIFTS


@SHIFTS.register("full")
class DistributionShift:
    """``t' = t / (t + exp(mu) (1 - t))`` with ``mu`` linear in the sequence length, from ``-base_shift`` to ``-max_shift``.

    Source: the resolution-dependent shift of Esser et al. 2024, arXiv:2403.03206.

    Args:
        base_shift: Shift at ``min_length``.
        max_shift: Shift at ``max_length``.
        max_length: Longest length told apart, in latent frames.
        min_length: Shortest length told apart, in latent frames.
        use_sine: Follow it by ``sin(t' pi/2)``.
    """

    def __init__(
        self, base_shift: float = 0.5, max_shift: float = 1.15, max_length: int = 4096, min_length: int = 256, use_sine: bool = False
    ) -> None:
        self.base_shift = base_shift
        self.max_shift = max_shift
        self.max_length = max_length
        self.min_length = min_length
        self.use_sine = use_sine

    def shift(self, t: Tensor, length: int) -> Tensor:
        """Shift times.

        Args:
            t: Times in [0, 1], any shape.
            length: Sequence length, in latent frames.

        >>> DistributionShift().shift(torch.tensor([0.0, 1.0]), 1024).tolist()
        [0.0, 1.0]
        """
        span = self.max_length - self.min_length
        position = (min(max(length, self.min_length), self.max_length) - self.min_length) / span if span else 0.0
        factor = math.exp(-(self.base_shift + (self.max_shift - self.base_shift) * position))
        shifted = t / (t + factor * (1 - t))
        return torch.sin(shifted * math.pi / 2) if self.use_sine else shifted

    time_shift = shift  # its name before version 0.0.20
