"""Distribution shifts: move times towards noise for long sequences, whose structure survives more noise.

Used on training times and on the grids of samplers. The length is one number, or one per item; it broadcasts against the times, so
shared times (N,) and lengths (B, 1) give grids (B, N), and times (B,) with lengths (B,) give times (B,).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from stable_audio_tools.config.base import PositiveInt
from stable_audio_tools.families import SHIFTS

Length = int | Tensor


class Shift:
    """The contract: a monotone map of times in [0, 1] that keeps both ends. Implementations are stateless."""

    def shift(self, t: Tensor, length: Length) -> Tensor:
        """Shift times.

        Args:
            t: Times in [0, 1], any shape.
            length: Sequence length in latent frames, a number or something that broadcasts against ``t``.

        Returns:
            Times in [0, 1].
        """
        raise NotImplementedError


@SHIFTS.register("none")
class NoShift(Shift):
    """Leaves times as they are."""

    def shift(self, t: Tensor, length: Length) -> Tensor:
        return t + torch.zeros_like(length, dtype=t.dtype) if isinstance(length, Tensor) else t


@SHIFTS.register("full")
class DistributionShift(Shift):
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
        self,
        base_shift: float = 0.5,
        max_shift: float = 1.15,
        max_length: PositiveInt = 4096,
        min_length: PositiveInt = 256,
        use_sine: bool = False,
    ) -> None:
        self.base_shift = base_shift
        self.max_shift = max_shift
        self.max_length = max_length
        self.min_length = min_length
        self.use_sine = use_sine

    def shift(self, t: Tensor, length: Length) -> Tensor:
        """Shift times, see `Shift.shift`.

        >>> DistributionShift().shift(torch.tensor([0.0, 1.0]), 1024).tolist()
        [0.0, 1.0]
        """
        span = self.max_length - self.min_length
        position = (_clamped(length, self.min_length, self.max_length, t) - self.min_length) / (span or 1)
        factor = torch.exp(-(self.base_shift + (self.max_shift - self.base_shift) * position))
        shifted = t / (t + factor * (1 - t))
        return torch.sin(shifted * math.pi / 2) if self.use_sine else shifted

    time_shift = shift  # its name before version 0.0.20


@SHIFTS.register("flux")
class FluxDistributionShift(Shift):
    """``t' = alpha t / (1 + (alpha - 1) t)`` with log ``alpha`` linear in the log of the sequence length.

    Args:
        min_length: Shortest length told apart, in latent frames.
        max_length: Longest length told apart, in latent frames.
        alpha_min: ``alpha`` at ``min_length``; 1 is no shift.
        alpha_max: ``alpha`` at ``max_length``.
    """

    def __init__(
        self, min_length: PositiveInt = 256, max_length: PositiveInt = 4096, alpha_min: float = 1.0, alpha_max: float = 1.0
    ) -> None:
        self.min_length = min_length
        self.max_length = max_length
        self.alpha_min = alpha_min
        self.alpha_max = alpha_max

    def shift(self, t: Tensor, length: Length) -> Tensor:
        span = math.log(self.max_length) - math.log(self.min_length)
        log_length = _clamped(length, self.min_length, self.max_length, t).log()
        position = (log_length - math.log(self.min_length)) / (span or 1)
        alpha = torch.exp(math.log(self.alpha_min) + position * (math.log(self.alpha_max) - math.log(self.alpha_min)))
        return alpha * t / (1 + (alpha - 1) * t)


@SHIFTS.register("logsnr")
class LogSNRShift(Shift):
    """Times evenly spaced in log-SNR, from ``anchor_logsnr - rate * log2(length / anchor_length)`` to ``logsnr_end``; the ends stay.

    With ``rate=0`` the length has no effect: ``LogSNRShift(rate=0)`` is the grid that version 0.0.20 samples with, and with
    ``anchor_logsnr=-6`` that of version 0.0.19.

    Args:
        anchor_length: Length at which the noisy end is ``anchor_logsnr``, in latent frames.
        anchor_logsnr: Log-SNR that stands for time 1.
        rate: How much the noisy end goes down when the length doubles.
        logsnr_end: Log-SNR that stands for time 0.
    """

    def __init__(self, anchor_length: PositiveInt = 2000, anchor_logsnr: float = -6.2, rate: float = 1.0, logsnr_end: float = 2.0) -> None:
        self.anchor_length = anchor_length
        self.anchor_logsnr = anchor_logsnr
        self.rate = rate
        self.logsnr_end = logsnr_end

    def shift(self, t: Tensor, length: Length) -> Tensor:
        start = self.anchor_logsnr - self.rate * torch.log2(_as_tensor(length, t).clamp(min=1) / self.anchor_length)
        start = start.clamp(max=self.logsnr_end - 0.01)  # a few frames only: times must still rise
        shifted = torch.sigmoid(-(self.logsnr_end - t * (self.logsnr_end - start)))
        return torch.where(t <= 0, 0.0, torch.where(t >= 1, 1.0, shifted)).to(t.dtype)


def _as_tensor(value: Length | float, like: Tensor) -> Tensor:
    return torch.as_tensor(value, dtype=like.dtype, device=like.device)


def _clamped(length: Length, low: int, high: int, like: Tensor) -> Tensor:
    return _as_tensor(length, like).clamp(low, high)
