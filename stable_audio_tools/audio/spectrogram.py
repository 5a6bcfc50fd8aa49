"""Spectrogram: magnitudes of the short-time Fourier transform, on a linear or a mel frequency axis.

Letters: T audio samples, N frames, F linear frequency bins (n_fft // 2 + 1), M mel bands. Frame n is centred on sample n * hop_samples, and
N = T // hop_samples + 1, so that frame 0 is the beginning of the clip.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from stable_audio_tools.errors import AudioError


def stft_magnitude(audio: Tensor, *, n_fft: int, hop_samples: int) -> Tensor:
    """Magnitudes of the short-time Fourier transform, with a Hann window; a full-scale sine wave reads 1.0.

    Beyond its edges the audio is taken to be silent (not reflected), so that a click at the very beginning is shown once, and clips shorter
    than a window are welcome.

    Args:
        audio: (..., T) waveform.
        n_fft: Window length, in samples.
        hop_samples: Distance between frames.

    Returns:
        (..., F, N), differentiable.

    Raises:
        AudioError: If the audio is empty.

    >>> stft_magnitude(torch.zeros(2, 1000), n_fft=64, hop_samples=16).shape
    torch.Size([2, 33, 63])
    """
    num_samples = audio.shape[-1] if audio.dim() else 0
    if num_samples == 0:
        raise AudioError(f"cannot make a spectrogram of audio of shape {tuple(audio.shape)}; at least one sample is needed")
    window = torch.hann_window(n_fft, dtype=audio.dtype, device=audio.device)
    flat = audio.reshape(-1, num_samples)  # (B, T): torch.stft takes at most two dimensions
    spectrum = torch.stft(flat, n_fft, hop_samples, window=window, center=True, pad_mode="constant", return_complex=True)  # (B, F, N)
    magnitude = spectrum.abs() * (2 / window.sum())
    return magnitude.reshape(*audio.shape[:-1], *magnitude.shape[-2:])  # (..., F, N)


def log_mel(
    audio: Tensor, sample_rate: int, *, n_fft: int = 2048, hop_samples: int = 512, num_mels: int = 128, floor_db: float = -100.0
) -> Tensor:
    """Level in decibels over time and mel frequency: what spectrogram pictures show. A full-scale sine wave reads about 0 dB.

    Args:
        audio: (..., T) waveform.
        sample_rate: In Hz.
        n_fft: Window length, in samples.
        hop_samples: Distance between frames.
        num_mels: Number of bands M between 0 Hz and half the sample rate.
        floor_db: What silence reads; nothing is lower.

    Returns:
        (..., M, N), the lowest band first.

    Raises:
        AudioError: If the audio is empty, or the bands too narrow for the window, see `mel_filterbank`.
    """
    power = stft_magnitude(audio, n_fft=n_fft, hop_samples=hop_samples).square()  # (..., F, N)
    bands = mel_filterbank(sample_rate, n_fft=n_fft, num_mels=num_mels).to(power)  # (M, F)
    return 10 * (bands @ power).clamp_min(10 ** (floor_db / 10)).log10()  # (..., M, N)


@lru_cache(maxsize=32)
def mel_filterbank(sample_rate: int, *, n_fft: int, num_mels: int, min_hz: float = 0.0, max_hz: float | None = None) -> Tensor:
    """Triangular bands, equally spaced and half overlapping on the mel scale, each with a peak of 1.

    Between the first and the last centre the triangles sum to 1 in every bin: no energy is counted twice or forgotten. (Slaney's variant,
    librosa's default, gives every triangle the same area instead: that makes white noise flat and tilts everything else.)

    Args:
        sample_rate: In Hz.
        n_fft: Window length of the spectra that it is for.
        num_mels: Number of bands M.
        min_hz: Lower edge of the first band.
        max_hz: Upper edge of the last band; half the sample rate if None.

    Returns:
        (M, F) weights for power or magnitude, float32. Shared between calls: do not change it in place.

    Raises:
        AudioError: If the edges are not in order, or a band is so narrow that no bin of the spectrum falls into it.

    Source: the mel formula is O'Shaughnessy's, "Speech Communication", 1987; the triangles are those of HTK (The HTK Book, 5.4).
    """
    highest = sample_rate / 2 if max_hz is None else max_hz
    if not 0 <= min_hz < highest <= sample_rate / 2:
        raise AudioError(f"mel bands from {min_hz:g} to {highest:g} Hz: the edges must lie in order between 0 and {sample_rate / 2:g} Hz")
    with torch.device("cpu"), torch.inference_mode(False):  # cached: the next caller may be in another mode
        mel_edges = torch.linspace(hz_to_mel(min_hz), hz_to_mel(highest), num_mels + 2, dtype=torch.float64)
        edges = 700 * (10 ** (mel_edges / 2595) - 1)  # Hz, (M + 2,)
        bins = torch.arange(n_fft // 2 + 1, dtype=torch.float64) * (sample_rate / n_fft)  # Hz, (F,)
        left, centre, right = (edges[start : start + num_mels, None] for start in range(3))  # (M, 1) each
        rising, falling = (bins - left) / (centre - left), (right - bins) / (right - centre)  # (M, F)
        bands = torch.minimum(rising, falling).clamp_min(0).float()
        empty = int((bands.sum(dim=1) == 0).sum())
    if empty:
        raise AudioError(
            f"{empty} of {num_mels} mel bands contain no frequency bin: at {sample_rate} Hz, n_fft = {n_fft} has a bin every "
            f"{sample_rate / n_fft:.1f} Hz; use fewer bands or a larger n_fft"
        )
    return bands


def hz_to_mel(frequency_hz: float) -> float:
    """Pitch in mel: linear in Hz below about 700 Hz, logarithmic above.

    >>> round(hz_to_mel(1000.0))
    1000
    """
    return 2595 * math.log10(1 + frequency_hz / 700)
