"""Wavelets: audio halved in rate and doubled in channels, level by level, and put together again exactly."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from stable_audio_tools.config.base import PositiveInt
from stable_audio_tools.errors import AudioError, ConfigError
from stable_audio_tools.families import PRETRANSFORMS
from stable_audio_tools.models.pretransforms.base import Pretransform

# name -> vanishing moments of the synthesis and of the analysis filter, and which roots of the Daubechies polynomial the synthesis filter
# takes: all others are the analysis filter's. These are the biorthogonal wavelets whose filters have odd length.
WAVELETS = {
    "bior2.2": (2, 2, "none"),
    "bior2.4": (2, 4, "none"),
    "bior2.6": (2, 6, "none"),
    "bior2.8": (2, 8, "none"),
    "bior4.4": (4, 4, "real"),
    "bior6.8": (6, 8, "middle"),
}


@lru_cache
def biorthogonal_filters(name: str) -> np.ndarray:
    """Analysis low and high pass, synthesis low and high pass of a biorthogonal wavelet: (4, K), all as long as the longest, K odd.

    The product of both low passes is ``cos(w/2)^2k P(sin(w/2)^2)`` with P of degree k - 1 such that the bands add up to the input; names
    and the division of its factors are those of PyWavelets. Source: Cohen, Daubechies & Feauveau 1992,
    https://doi.org/10.1002/cpa.3160450502.

    Raises:
        ConfigError: If there is no such wavelet.

    >>> (biorthogonal_filters("bior2.2")[2] * 8**0.5).round(6).tolist()
    [1.0, 2.0, 1.0, 0.0, 0.0]
    """
    if name not in WAVELETS:
        raise ConfigError(f"wavelet: must be one of {', '.join(WAVELETS)} (biorthogonal, of odd length), got {name!r}")
    synthesis_moments, analysis_moments, taken = WAVELETS[name]
    degree = (synthesis_moments + analysis_moments) // 2 - 1
    coefficients = np.ones(degree + 1)  # of P: binomial(degree + j, j), lowest first
    for j in range(1, degree + 1):
        coefficients[j] = coefficients[j - 1] * (degree + j) / j
    roots = np.roots(coefficients[::-1])
    is_taken = np.zeros(degree, dtype=bool)
    if taken == "real":
        is_taken = np.abs(roots.imag) < 1e-9
    elif taken == "middle":  # of three conjugate pairs, by distance from the real axis
        is_taken = np.abs(np.abs(roots.imag) - np.median(np.abs(roots.imag))) < 1e-9
    low_synthesis = _low_pass(synthesis_moments, roots[is_taken])
    low_analysis = _low_pass(analysis_moments, roots[~is_taken])
    length = len(low_analysis)
    before = length // 2 - 1 - len(low_synthesis) // 2  # the synthesis filter is centred one tap earlier
    low_synthesis = np.pad(low_synthesis, (before, length - before - len(low_synthesis)))
    alternating = (-1.0) ** np.arange(length)
    return np.stack([low_analysis, alternating * low_synthesis, low_synthesis, -alternating * low_analysis])


def _low_pass(moments: int, roots: np.ndarray) -> np.ndarray:
    """Taps of ``sqrt(2) cos(w/2)^moments`` times a polynomial in ``sin(w/2)^2`` that has these roots and is 1 at 0."""
    taps = np.array([2.0**0.5], dtype=complex)
    for _ in range(moments // 2):
        taps = np.convolve(taps, [0.25, 0.5, 0.25])
    for root in roots:
        taps = np.convolve(taps, np.array([0.25, 0.5 * (2 * root - 1), 0.25]) / root)  # 1 - y / root, y = (2 - z - 1/z) / 4
    return np.real(taps)


def _kernel(low: np.ndarray, high: np.ndarray, channels: int) -> Tensor:
    """(2 C, C, K): output ``i C + j`` is channel j through filter i."""
    pair = torch.tensor(np.stack([low, high]), dtype=torch.float32)  # (2, K)
    return torch.einsum("ik,jc->ijck", pair, torch.eye(channels)).flatten(0, 1)


class WaveletAnalysis(nn.Module):
    """(B, C, T) -> (B, C 2^levels, T / 2^levels)."""

    kernel: Tensor

    def __init__(self, channels: int, levels: int, wavelet: str) -> None:
        super().__init__()
        self.channels, self.levels = channels, levels
        low, high, _, _ = biorthogonal_filters(wavelet)
        self.register_buffer("kernel", _kernel(low[::-1].copy(), high[::-1].copy(), channels))

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.kernel.to(x.dtype)
        half = kernel.shape[-1] // 2
        for _ in range(self.levels):
            low, rest = x[:, : self.channels], x[:, self.channels :]
            low = F.conv1d(F.pad(low, (half, half), mode="reflect"), kernel, stride=2)  # (B, 2 C, L / 2)
            rest = rearrange(rest, "b (d c) (l p) -> b (d p c) l", p=2, c=self.channels)
            x = torch.cat([low, rest], dim=1)
        return x


class WaveletSynthesis(nn.Module):
    """Inverse of `WaveletAnalysis`: (B, C 2^levels, L) -> (B, C, L 2^levels)."""

    kernel: Tensor

    def __init__(self, channels: int, levels: int, wavelet: str) -> None:
        super().__init__()
        self.channels, self.levels = channels, levels
        _, _, low, high = biorthogonal_filters(wavelet)
        self.register_buffer("kernel", _kernel(low, high, channels))

    def forward(self, z: Tensor) -> Tensor:
        kernel = self.kernel.to(z.dtype)
        half, channels = kernel.shape[-1] // 2, self.channels
        pad = half + 2  # even for all wavelets, so that low and high stay in step; the two more keep the borders exact
        for _ in range(self.levels):
            bands, rest = z[:, : 2 * channels], z[:, 2 * channels :]
            line = rearrange(bands, "b (p c) l -> b c (l p)", p=2)  # low and high in turn: mirrored at the ends as the signal was
            line = F.pad(line, (pad, pad), mode="reflect")
            bands = rearrange(line, "b c (l p) -> b (p c) l", p=2)
            signal = F.conv_transpose1d(bands, kernel, stride=2, padding=half)[..., pad - 1 : -pad]  # (B, C, 2 L)
            rest = rearrange(rest, "b (d p c) l -> b (d c) (l p)", p=2, c=channels)
            z = torch.cat([signal, rest], dim=1)
        return z


@PRETRANSFORMS.register("wavelet", audio_key="channels", width_key="channels", octaves_key="levels")
class WaveletPretransform(Pretransform):
    """Bands of a discrete wavelet transform: (B, channels, T) to (B, channels * 2^levels, T / 2^levels) and exactly back.

    T is padded with zeros to a multiple of 2^levels.

    The first channels are the lowest band. Each level halves the lowest band in two and interleaves what was split off before.

    Args:
        channels: Audio channels.
        levels: How often the lowest band is split.
        wavelet: ``"bior2.2"``, ``"bior2.4"``, ``"bior2.6"``, ``"bior2.8"``, ``"bior4.4"`` or ``"bior6.8"``.
    """

    def __init__(self, channels: PositiveInt, levels: PositiveInt, wavelet: str) -> None:
        super().__init__(enable_grad=False, io_channels=channels, is_discrete=False)
        if channels < 1 or levels < 1:
            raise ConfigError(f"pretransform 'wavelet': channels and levels must be at least 1, got {channels} and {levels}")
        self.downsampling_ratio = 2**levels
        self.encoded_channels = channels * 2**levels
        self.encoder = WaveletAnalysis(channels, levels, wavelet)
        self.decoder = WaveletSynthesis(channels, levels, wavelet)
        half = self.encoder.kernel.shape[-1] // 2
        self.min_frames = (half + 2) // 2 + 1  # to mirror at the ends, on the deepest level

    def encode(self, x: Tensor, **kwargs: Any) -> Tensor:
        x = F.pad(x, (0, -x.shape[-1] % self.downsampling_ratio))
        self._require(x.shape[-1] // self.downsampling_ratio)
        return self.encoder(x)

    def decode(self, z: Tensor, **kwargs: Any) -> Tensor:
        self._require(z.shape[-1])
        return self.decoder(z)

    def _require(self, frames: int) -> None:
        if frames < self.min_frames:
            ratio = self.downsampling_ratio
            raise AudioError(f"pretransform 'wavelet' needs at least {self.min_frames * ratio} samples, got {frames * ratio}")
