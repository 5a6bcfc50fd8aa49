"""A-weighting as an FIR filter: hear as an ear does, before comparing spectra."""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


def a_weighting_taps(sample_rate: int, num_taps: int = 101) -> Tensor:
    """Least-squares FIR fit of the IEC 61672 A-weighting curve, in float32: (num_taps,).

    Source: the analogue poles of IEC 61672, bilinear-transformed and fitted on 512 frequencies.
    """
    import scipy.signal

    f1, f2, f3, f4, a1000 = 20.598997, 107.65265, 737.86223, 12194.217, 1.9997
    numerator = [(2 * math.pi * f4) ** 2 * 10 ** (a1000 / 20), 0.0, 0.0, 0.0, 0.0]
    denominator = np.polymul(
        [1, 4 * math.pi * f4, (2 * math.pi * f4) ** 2],
        [1, 4 * math.pi * f1, (2 * math.pi * f1) ** 2],
    )
    denominator = np.polymul(np.polymul(denominator, [1, 2 * math.pi * f3]), [1, 2 * math.pi * f2])
    b, a = scipy.signal.bilinear(numerator, denominator, fs=sample_rate)
    frequencies, response = scipy.signal.freqz(b, cast("Any", a), worN=512, fs=sample_rate)
    taps = scipy.signal.firls(num_taps, frequencies, np.abs(response), fs=sample_rate)
    return torch.tensor(taps.astype("float32"))


class AWeighting(nn.Module):
    """Filters every channel with the A-weighting curve, keeping the length.

    Its taps are a frozen parameter ``fir.weight``, as they are in published training checkpoints.

    Args:
        sample_rate: In Hz.
    """

    def __init__(self, sample_rate: int) -> None:
        super().__init__()
        taps = a_weighting_taps(sample_rate)
        self.fir = nn.Conv1d(1, 1, len(taps), bias=False, padding=len(taps) // 2)
        self.fir.weight = nn.Parameter(taps.view(1, 1, -1), requires_grad=False)

    def forward(self, audio: Tensor) -> Tensor:  # (..., T) -> (..., T)
        flat = audio.reshape(-1, 1, audio.shape[-1])
        return F.conv1d(flat, self.fir.weight, padding=self.fir.weight.shape[-1] // 2).view_as(audio)
