"""The constant-Q transform: a spectrogram with as many bins in every octave, differentiable and for any sample rate.

Letters: F bins, N frames. Source: Brown 1991; octave by octave as in Schoerkhuber & Klapuri 2010, "Constant-Q transform toolbox": the same
short filters look at the audio, at the audio at half of its rate, and so on.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.training.losses.resampling import SincResample

HIGHEST = 0.38
"""Upper end of the top octave, as a share of the sample rate: 16.8 kHz at 44.1 kHz. Room for the edges of the half-band filters."""


class ConstantQ(nn.Module):
    """Audio to complex amplitudes of logarithmically spaced bins; a full-scale sine wave reads 1 in its bin.

    Args:
        hop_length: Samples between frames, a multiple of ``2 ** (num_octaves - 1)``.
        num_octaves: Octaves below ``HIGHEST * sample_rate``.
        bins_per_octave: Bins in each.

    Raises:
        ConfigError: If the hop cannot be halved often enough.
    """

    filters: Tensor

    def __init__(self, hop_length: int, num_octaves: int, bins_per_octave: int) -> None:
        super().__init__()
        if hop_length % 2 ** (num_octaves - 1):
            raise ConfigError(
                f"constant-Q transform: the hop length must be a multiple of {2 ** (num_octaves - 1)}, which is half of 2 to the "
                f"{num_octaves} octaves, got {hop_length}"
            )
        self.hop_length, self.num_octaves, self.bins_per_octave = hop_length, num_octaves, bins_per_octave
        self.register_buffer("filters", octave_filters(bins_per_octave), persistent=False)
        self.halve = SincResample(2, 1)

    def frequencies(self) -> Tensor:
        """Centre of every bin as a share of the sample rate, (F,), rising."""
        steps = torch.arange(self.num_octaves * self.bins_per_octave) / self.bins_per_octave
        return HIGHEST * 2.0 ** (steps - self.num_octaves)

    def forward(self, audio: Tensor) -> Tensor:
        """(B, C, T) -> complex (B, C, F, N) with N = ceil(T / hop), frame n centred on sample n * hop; beyond the edges is silence."""
        with torch.autocast(audio.device.type, enabled=False):
            x = audio.reshape(-1, 1, audio.shape[-1]).float()  # (B C, 1, T)
            octaves: list[Tensor] = []
            for octave in range(self.num_octaves):
                x = self.halve(x) if octave else x
                margin = self.filters.shape[-1] // 2
                parts = F.conv1d(F.pad(x, (margin, margin)), self.filters.float(), stride=self.hop_length >> octave)
                octaves.append(torch.complex(*parts.chunk(2, dim=1)))  # (B C, bins, N)
            return torch.cat(octaves[::-1], dim=1).unflatten(0, audio.shape[:2])  # (B, C, F, N)


def octave_filters(bins: int) -> Tensor:
    """Windowed complex exponentials of one octave up to `HIGHEST`: real parts, then imaginary ones, (2 bins, 1, taps)."""
    quality = 1 / (2 ** (1 / bins) - 1)
    frequencies = HIGHEST * 2.0 ** (torch.arange(bins, dtype=torch.float64) / bins - 1)[:, None]  # (bins, 1)
    lengths = quality / frequencies
    margin = math.ceil(float(lengths.max()) / 2)
    t = torch.arange(-margin, margin + 1, dtype=torch.float64)  # (taps,)
    window = torch.cos(math.pi * (t / lengths).clamp(-0.5, 0.5)).square()  # Hann, (bins, taps)
    window = 2 * window / window.sum(dim=1, keepdim=True)
    phase = 2 * math.pi * frequencies * t
    return torch.cat([window * phase.cos(), -window * phase.sin()])[:, None].float()
