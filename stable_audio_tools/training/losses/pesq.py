"""PESQ: how good speech sounds, as telephone engineers measure it. For validation; no gradients."""

from __future__ import annotations

import logging
from typing import Literal

import torch
from torch import Tensor, nn

from stable_audio_tools.audio import resample
from stable_audio_tools.config.base import PositiveInt
from stable_audio_tools.families import LOSSES
from stable_audio_tools.optional import require

logger = logging.getLogger(__name__)


@LOSSES.register("pesq")
class PESQMetric(nn.Module):
    """Perceptual evaluation of speech quality, from about 1 (bad) to 4.6; larger is better. Needs the package ``pesq``.

    Args:
        sample_rate: In Hz; given by the model. Signals are resampled to what the band needs.
        mode: ``wb`` is wide band, at 16 kHz, ``nb`` is narrow band, at 8 kHz.

    Source: ITU-T P.862 and P.862.2.
    """

    def __init__(self, sample_rate: PositiveInt, mode: Literal["wb", "nb"] = "wb") -> None:
        super().__init__()
        require("pesq", extra="pesq", purpose="the validation metric 'pesq'")
        self.sample_rate, self.mode = sample_rate, mode

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Mean over channels and items of an estimate (B, C, T) against its target (B, C, T); NaN where there is no speech to judge."""
        pesq = require("pesq", extra="pesq", purpose="the validation metric 'pesq'")
        rate = 16000 if self.mode == "wb" else 8000
        estimate, target = (resample(signal.detach().float().flatten(0, -2), self.sample_rate, rate).cpu().numpy() for signal in (x, y))
        values: list[float] = []
        for ours, theirs in zip(estimate, target, strict=True):
            if not theirs.any():
                continue
            try:
                values.append(float(pesq.pesq(rate, theirs, ours, self.mode)))
            except (pesq.NoUtterancesError, pesq.BufferTooShortError):
                logger.debug("pesq: a signal of %d samples holds no speech that it can judge", len(theirs))
        return torch.tensor(values).mean()
