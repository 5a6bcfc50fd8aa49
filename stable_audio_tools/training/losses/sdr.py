"""Signal-to-distortion ratios, as losses. Source: Le Roux et al. 2018, arXiv:1811.02508."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stable_audio_tools.config.base import NonNegativeFloat
from stable_audio_tools.families import LOSSES


@LOSSES.register("si_sdr")
class SISDRLoss(nn.Module):
    """Negative scale-invariant signal-to-distortion ratio, in decibels; a wrong gain is no distortion.

    Args:
        zero_mean: Remove the mean of both signals first.
        eps: Keeps the ratio of silence finite.
    """

    def __init__(self, zero_mean: bool = True, eps: NonNegativeFloat = 1e-8) -> None:
        super().__init__()
        self.zero_mean, self.eps = zero_mean, eps

    def residual(self, x: Tensor, y: Tensor, scaled: Tensor) -> Tensor:
        """What counts as distortion: ``scaled`` is ``y`` with the gain that fits ``x`` best."""
        return x - scaled

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Mean over signals of an estimate (..., T) and its target (..., T)."""
        x, y = x.float(), y.float()
        if self.zero_mean:
            x, y = (signal - signal.mean(dim=-1, keepdim=True) for signal in (x, y))
        gain = (x * y).sum(dim=-1, keepdim=True) / (y.square().sum(dim=-1, keepdim=True) + self.eps)
        scaled = gain * y
        power, distortion = scaled.square().sum(dim=-1), self.residual(x, y, scaled).square().sum(dim=-1)
        return -(10 * torch.log10(power / (distortion + self.eps) + self.eps)).mean()


@LOSSES.register("sd_sdr")
class SDSDRLoss(SISDRLoss):
    """Negative scale-dependent signal-to-distortion ratio, in decibels; a wrong gain counts as distortion.

    Args:
        zero_mean: Remove the mean of both signals first.
        eps: Keeps the ratio of silence finite.
    """

    def __init__(self, zero_mean: bool = True, eps: NonNegativeFloat = 1e-8) -> None:
        super().__init__(zero_mean, eps)

    def residual(self, x: Tensor, y: Tensor, scaled: Tensor) -> Tensor:
        return x - y
