"""Mel and chroma filter banks, as librosa defines them by default, which published losses were computed with.

Letters: F linear frequency bins (n_fft // 2 + 1), M bands. The pictures of `stable_audio_tools.audio.spectrogram` have other ones.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from stable_audio_tools.errors import ConfigError


@lru_cache(maxsize=64)
def slaney_mel(sample_rate: int, n_fft: int, num_mels: int, low: float = 0.0, high: float | None = None) -> Tensor:
    """Triangles of equal area on Slaney's mel scale: (M, F).

    Args:
        sample_rate: In Hz.
        n_fft: Window length of the spectra.
        num_mels: Bands M.
        low: Where the first one begins, in Hz.
        high: Where the last one ends, in Hz; None is half the sample rate.

    Source: Slaney 1998, "Auditory Toolbox", Technical Report 1998-010.

    Raises:
        ConfigError: If there are more bands than bins, or no frequencies.
    """
    high = sample_rate / 2 if high is None else high
    if not 0 <= low < high <= sample_rate / 2:
        raise ConfigError(f"mel scale: bands lie between 0 and {sample_rate / 2:g} Hz, got {low:g} to {high:g}")
    if num_mels > n_fft // 2 + 1:
        raise ConfigError(f"mel scale: {num_mels} bands are more than the {n_fft // 2 + 1} frequencies of fft size {n_fft}")
    with torch.device("cpu"), torch.inference_mode(False):  # cached: the next caller may be in another mode
        first, last = _hz_to_mel(low), _hz_to_mel(high)
        steps = [first + (last - first) * index / (num_mels + 1) for index in range(num_mels + 2)]
        edges = torch.tensor([_mel_to_hz(mel) for mel in steps], dtype=torch.float64)  # Hz, (M + 2,)
        bins = torch.arange(n_fft // 2 + 1, dtype=torch.float64) * (sample_rate / n_fft)  # Hz, (F,)
        left, centre, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]  # (M, 1)
        triangles = torch.minimum((bins - left) / (centre - left), (right - bins) / (right - centre)).clamp_min(0)  # (M, F)
        return (triangles * 2 / (right - left)).float()


_LINEAR_HZ = 200 / 3  # per mel, below 1 kHz
_LOG_STEP = math.log(6.4) / 27  # per mel, above


def _hz_to_mel(hz: float) -> float:
    return hz / _LINEAR_HZ if hz < 1000 else 15 + math.log(hz / 1000) / _LOG_STEP


def _mel_to_hz(mel: float) -> float:
    return mel * _LINEAR_HZ if mel < 15 else 1000 * math.exp(_LOG_STEP * (mel - 15))


@lru_cache(maxsize=64)
def chroma(sample_rate: int, n_fft: int, num_chroma: int = 12) -> Tensor:
    """Gaussian bumps around every octave of each pitch class, from C, most at 5 octaves above 27.5 Hz: (M, F).

    Args:
        sample_rate: In Hz.
        n_fft: Window length of the spectra.
        num_chroma: Pitch classes M.

    Source: Ellis 2007, "Chroma feature analysis and synthesis".
    """
    with torch.device("cpu"), torch.inference_mode(False):
        hz = torch.arange(1, n_fft, dtype=torch.float64) * (sample_rate / n_fft)
        octaves = (hz / (440 / 16)).log2() * num_chroma  # in pitch classes above A0
        octaves = torch.cat([octaves[:1] - 1.5 * num_chroma, octaves])  # the bin of 0 Hz lies an octave and a half below the next one
        widths = torch.cat([(octaves[1:] - octaves[:-1]).clamp_min(1), torch.ones(1, dtype=torch.float64)])
        half = round(num_chroma / 2)
        distance = octaves - torch.arange(num_chroma, dtype=torch.float64)[:, None]  # (M, n_fft)
        distance = torch.remainder(distance + half + 10 * num_chroma, num_chroma) - half
        bumps = torch.exp(-0.5 * (2 * distance / widths).square())
        bumps = bumps / bumps.norm(dim=0, keepdim=True).clamp_min(1e-30)
        bumps = bumps * torch.exp(-0.5 * ((octaves / num_chroma - 5) / 2).square())
        return torch.roll(bumps, -3 * (num_chroma // 12), dims=0)[:, : n_fft // 2 + 1].float()
