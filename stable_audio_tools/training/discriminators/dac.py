"""The discriminator of the Descript Audio Codec: periods, rates and bands of spectrograms.

Source: Kumar et al. 2023, arXiv:2306.06546. Letters: P period, F frequencies, N frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from stable_audio_tools.config.base import PositiveInt, Probability
from stable_audio_tools.errors import ConfigError
from stable_audio_tools.families import DISCRIMINATORS
from stable_audio_tools.models.layers.conv import WNConv1d, WNConv2d
from stable_audio_tools.training.discriminators.base import EnsembleDiscriminator, Judgement, Members
from stable_audio_tools.training.losses.resampling import SincResample

SLOPE = 0.1
PERIODS = (2, 3, 5, 7, 11)
BANDS = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)


def _activated(conv: nn.Module) -> nn.Sequential:
    return nn.Sequential(conv, nn.LeakyReLU(SLOPE))


class PeriodDiscriminator(nn.Module):
    """Convolutions over audio folded into rows of ``period`` samples. Source: Kong et al. 2020, arXiv:2010.05646.

    Args:
        period: Row length P, in samples.
        in_channels: Audio channels.
    """

    def __init__(self, period: int, in_channels: int = 1) -> None:
        super().__init__()
        self.period = period
        widths = (in_channels, 32, 128, 512, 1024, 1024)
        strides = (3, 3, 3, 3, 1)
        self.convs = nn.ModuleList(
            _activated(WNConv2d(width_in, width_out, (5, 1), (stride, 1), padding=(2, 0)))
            for (width_in, width_out), stride in zip(pairwise(widths), strides, strict=True)
        )
        self.conv_post = WNConv2d(1024, 1, (3, 1), padding=(1, 0))

    def forward(self, audio: Tensor) -> Judgement:
        """(B, C, T) -> score (B, 1, rows, P) and features."""
        padding = self.period - audio.shape[-1] % self.period  # a whole row if nothing is missing, as in published runs
        x = F.pad(audio, (0, padding), mode="reflect").unflatten(-1, (-1, self.period))  # (B, C, rows, P)
        return _through(self.convs, self.conv_post, x)


class RateDiscriminator(nn.Module):
    """Grouped convolutions over audio at a lower rate. Source: Kumar et al. 2019, arXiv:1910.06711.

    Args:
        rate: By how much the rate is divided.
        in_channels: Audio channels.
    """

    def __init__(self, rate: int, in_channels: int = 1) -> None:
        super().__init__()
        self.resample = SincResample(rate, 1)
        self.convs = nn.ModuleList([
            _activated(WNConv1d(in_channels, 16, 15, padding=7)),
            *(
                _activated(WNConv1d(width_in, width_out, 41, 4, groups=width_in // 4, padding=20))
                for width_in, width_out in pairwise((16, 64, 256, 1024, 1024))
            ),
            _activated(WNConv1d(1024, 1024, 5, padding=2)),
        ])  # fmt: skip
        self.conv_post = WNConv1d(1024, 1, 3, padding=1)

    def forward(self, audio: Tensor) -> Judgement:
        """(B, C, T) -> score (B, 1, frames) and features."""
        return _through(self.convs, self.conv_post, self.resample(audio))


class BandDiscriminator(nn.Module):
    """Convolutions over bands of a complex spectrogram, each channel of the audio by itself.

    Args:
        fft_size: Window length, in samples; the hop is a quarter of it.
        bands: (from, to) of each band, as shares of half the sample rate.
    """

    window: Tensor

    def __init__(self, fft_size: int, bands: Sequence[tuple[float, float]]) -> None:
        super().__init__()
        self.fft_size, self.hop = fft_size, fft_size // 4
        bins = fft_size // 2 + 1
        self.bands = [(int(low * bins), int(high * bins)) for low, high in bands]
        empty = [band for band, (low, high) in zip(bands, self.bands, strict=True) if low >= high]
        if empty:
            raise ConfigError(f"discriminator 'dac': bands: {empty[0]} holds no frequency of fft_sizes {fft_size}; widen it")
        width = 32
        self.band_convs = nn.ModuleList(
            nn.ModuleList([
                _activated(WNConv2d(2, width, (3, 9), padding=(1, 4))),
                *(_activated(WNConv2d(width, width, (3, 9), (1, 2), padding=(1, 4))) for _ in range(3)),
                _activated(WNConv2d(width, width, (3, 3), padding=(1, 1))),
            ])
            for _ in bands
        )  # fmt: skip
        self.conv_post = WNConv2d(width, 1, (3, 3), padding=(1, 1))
        self.register_buffer("window", torch.hann_window(fft_size), persistent=False)

    def spectrogram(self, audio: Tensor) -> Tensor:
        """(B, C, T) -> (B C, 2, N, F) with N = ceil(T / hop): real and imaginary parts."""
        rows = audio.reshape(-1, audio.shape[-1]).float()
        missing = -rows.shape[-1] % self.hop
        edge = (self.fft_size - self.hop) // 2
        rows = F.pad(rows[:, None], (edge, edge + missing), mode="reflect")[:, 0]
        spectrum = torch.stft(rows, self.fft_size, self.hop, window=self.window.float(), return_complex=True)[..., 2:-2]
        return rearrange(torch.view_as_real(spectrum), "b f n c -> b c n f")

    def forward(self, audio: Tensor) -> Judgement:
        """(B, C, T) -> score (B C, 1, N, frequencies of all bands) and features."""
        spectrum = self.spectrogram(audio)
        features: list[Tensor] = []
        ends: list[Tensor] = []
        for (low, high), convs in zip(self.bands, self.band_convs, strict=True):
            x = spectrum[..., low:high]
            for conv in convs:  # pyright: ignore[reportGeneralTypeIssues]
                x = conv(x)
                features.append(x)
            ends.append(x)
        return Judgement(self.conv_post(torch.cat(ends, dim=-1)), features)


def _through(convs: nn.ModuleList, conv_post: nn.Module, x: Tensor) -> Judgement:
    features: list[Tensor] = []
    for conv in convs:
        x = conv(x)
        features.append(x)
    return Judgement(conv_post(x), features)


@DISCRIMINATORS.register(
    "dac",
    renamed={"channels": "in_channels"},
    ignored={"sample_rate": "rates divide the model's sample rate"},
)
class DACDiscriminator(EnsembleDiscriminator):
    """Periods, rates and bands of spectrograms, least squares, as the Descript Audio Codec was trained.

    Audio is freed of its mean and scaled to a peak of 0.8 first.

    Args:
        in_channels: Audio channels; given by the autoencoder.
        use_hinge: Hinge loss between 0 and 1 instead of least squares.
        rates: One member per rate, which hears the audio at the model's sample rate divided by it.
        periods: One member per period, in samples.
        fft_sizes: One member per window length, in samples.
        bands: Bands of the spectrograms as shares of half the sample rate: their edges, or pairs of edges.
    """

    def __init__(
        self,
        in_channels: PositiveInt = 1,
        *,
        use_hinge: bool = False,
        rates: Sequence[PositiveInt] = (),
        periods: Sequence[PositiveInt] = PERIODS,
        fft_sizes: Sequence[PositiveInt] = (2048, 1024, 512),
        bands: Sequence[Probability] | Sequence[Sequence[Probability]] = BANDS,
    ) -> None:
        super().__init__("unit_hinge" if use_hinge else "least_squares")
        pairs = band_pairs(bands)
        members: list[nn.Module] = [
            *(PeriodDiscriminator(period, in_channels) for period in periods),
            *(RateDiscriminator(rate, in_channels) for rate in rates),
            *(BandDiscriminator(size, pairs) for size in fft_sizes),
        ]
        if not members:
            raise ConfigError("discriminator 'dac': rates, periods and fft_sizes are all empty; give at least one of them")
        self.discriminator = Members(members)

    def judge(self, audio: Tensor) -> list[Judgement]:
        audio = audio - audio.mean(dim=-1, keepdim=True)
        audio = 0.8 * audio / (audio.abs().amax(dim=-1, keepdim=True) + 1e-9)
        return self.discriminator(audio)


def band_pairs(bands: Sequence[Any]) -> list[tuple[float, float]]:
    """Edges, or pairs of edges, as pairs.

    Raises:
        ConfigError: If a band does not rise.

    >>> band_pairs([0.0, 0.5, 1.0])
    [(0.0, 0.5), (0.5, 1.0)]
    """
    pairs = [tuple(band) for band in bands] if any(isinstance(band, Sequence) for band in bands) else list(pairwise(bands))
    if not pairs or not all(len(pair) == 2 and pair[0] < pair[1] for pair in pairs):
        raise ConfigError(f"discriminator 'dac': bands are rising edges, or pairs of them, of shares in [0, 1], got {list(bands)}")
    return pairs


DACGANLoss = DACDiscriminator
"""The name that scripts import from `stable_audio_tools.models.discriminators`."""
