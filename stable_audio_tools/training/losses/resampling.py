"""Resampling that gradients pass through: what a loss needs to listen at another rate than the model's.

Files are resampled with `stable_audio_tools.audio.resample`, which is sharper.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ZEROS = 24
"""Zero crossings of the sinc on each side; at 24 the transition band is about 1/12 of the lower Nyquist frequency."""
ROLL_OFF = 0.945


class SincResample(nn.Module):
    """Resamples (..., T) to (..., ceil(T * to_rate / from_rate)) with a windowed sinc, differentiably.

    One output phase per channel of a strided convolution, as in Smith, "Digital Audio Resampling Home Page", 2002.

    Args:
        from_rate: Rate of the input, in Hz.
        to_rate: Rate of the output, in Hz.
    """

    kernel: Tensor

    def __init__(self, from_rate: int, to_rate: int) -> None:
        super().__init__()
        divisor = math.gcd(from_rate, to_rate)
        self.down, self.up = from_rate // divisor, to_rate // divisor
        self.register_buffer("kernel", sinc_kernel(self.down, self.up), persistent=False)

    def forward(self, audio: Tensor) -> Tensor:
        if self.up == self.down:
            return audio
        length = math.ceil(audio.shape[-1] * self.up / self.down)
        rows = audio.reshape(-1, 1, audio.shape[-1])  # (B, 1, T)
        margin = (self.kernel.shape[-1] - self.down) // 2
        rows = F.pad(rows, (margin, margin + self.down))
        phases = F.conv1d(rows, self.kernel.to(rows), stride=self.down)  # (B, up, T / down)
        return phases.transpose(1, 2).reshape(*audio.shape[:-1], -1)[..., :length]


def sinc_kernel(down: int, up: int) -> Tensor:
    """The filter for every one of ``up`` output phases, (up, 1, taps); ``taps - down`` is even."""
    cutoff = ROLL_OFF * min(up, down)  # in cycles per ``down * up`` samples of the common rate, doubled
    margin = math.ceil(ZEROS * down / cutoff)
    taps = torch.arange(-margin, margin + down, dtype=torch.float64) / down  # input samples, in units of one block
    phases = torch.arange(up, dtype=torch.float64)[:, None] / up
    t = (taps - phases) * cutoff
    window = torch.cos(t.clamp(-ZEROS, ZEROS) * math.pi / ZEROS / 2).square()
    kernel = torch.sinc(t) * window
    kernel = kernel / kernel.sum(dim=1, keepdim=True)  # a constant stays what it is
    return kernel[:, None].float()
