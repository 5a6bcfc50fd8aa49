"""Resampling: change the sample rate, keep the sound."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stable_audio_tools.errors import AudioError

# HQ has the pass band of VHQ and a precision of 20 bits, beyond what sources of 16 bits hold; it takes 0.09 ms against 0.17 for 45 ms of
# stereo, 0.74 against 0.89 for 1.5 s, 23.6 against 25.6 for 47 s (44.1 to 48 kHz). VHQ computes in float64: a span then equals the slice
# of the whole to the last bit, where HQ differs by 1e-6. A resampler is made anew for each call: keeping one saves nothing, since soxr
# keeps its filters, and clearing a stream makes it anew.
_QUALITY = "HQ"

RESAMPLE_MARGIN = 512
"""Samples, at the lower of both rates, beyond which the filter no longer reaches; 256 measured as enough."""

# For larger terms soxr steps through an interpolated filter and rounds the step: 44100 to 44101 drifts to 5e-5 within 10 s.
_MAX_EXACT_TERM = 1280  # of 11025 to 32000 Hz


def resample(audio: Tensor, from_rate: int, to_rate: int) -> Tensor:
    """Resample with soxr's high quality (pass band to 0.91 of the lower Nyquist frequency, 20-bit precision).

    Args:
        audio: (..., T) floating-point waveform. No gradient flows through.
        from_rate: Its rate in Hz.
        to_rate: Wanted rate in Hz; equal rates return ``audio`` itself.

    Returns:
        (..., ceil(T * to_rate / from_rate)), on the same device, in the same dtype.

    Raises:
        AudioError: If a rate is not positive or the audio is not floating point.

    >>> resample(torch.zeros(2, 44100), 44100, 48000).shape
    torch.Size([2, 48000])
    """
    if from_rate < 1 or to_rate < 1:
        raise AudioError(f"resample: cannot go from {from_rate} Hz to {to_rate} Hz; rates must be at least 1")
    if not audio.is_floating_point():
        raise AudioError(f"resample: expected a float tensor, got {audio.dtype}; convert it with from_int16")
    if from_rate == to_rate:
        return audio
    dtype = torch.float64 if audio.dtype == torch.float64 else torch.float32  # numpy has no bfloat16
    flat = audio.detach().cpu().to(dtype).reshape(math.prod(audio.shape[:-1]), audio.shape[-1])  # -1 fails on empty audio
    resampled = torch.as_tensor(resample_channels(flat.numpy(), from_rate, to_rate))
    return resampled.reshape(*audio.shape[:-1], resampled.shape[-1]).to(audio)


def resample_channels(
    samples: NDArray[np.floating[Any]], from_rate: int, to_rate: int, *, start: int = 0, stop: int | None = None
) -> NDArray[np.floating[Any]]:
    """Resample a (C, T) array to ceil(T * to_rate / from_rate) samples, of which [start, stop) are returned."""
    import soxr  # pyright: ignore[reportMissingTypeStubs]

    divisor = math.gcd(from_rate, to_rate)
    up, down = to_rate // divisor, from_rate // divisor
    num_channels, num_held = samples.shape
    whole = -(-num_held * up // down)
    first, last, _ = slice(start, stop).indices(whole)
    resampled = np.empty((num_channels, max(0, last - first)), dtype=samples.dtype)
    if resampled.size:
        # soxr rounds the length; where samples up to the ceiling are wanted, enough silence at the end makes it at least that.
        if last > (2 * num_held * up + down) // (2 * down) - 1:
            samples = np.pad(samples, ((0, 0), (0, 2 * math.ceil(down / up))))  # (C, T + padding)
        # Not contiguous frames, which soxr would copy apart and together again: 26 ms against 29 for 47 s of stereo.
        frames = np.transpose(np.ascontiguousarray(samples))  # (T, C)
        resampled[:] = np.transpose(soxr.resample(frames, from_rate, to_rate, quality=_QUALITY)[first:last])  # (C, T')
    return resampled


def is_shift_invariant(from_rate: int, to_rate: int) -> bool:
    """Whether resampling a span, begun on a common multiple of both sample periods, equals a slice of resampling it all.

    >>> is_shift_invariant(44100, 48000), is_shift_invariant(44100, 44101)
    (True, False)
    """
    return max(from_rate, to_rate) // math.gcd(from_rate, to_rate) <= _MAX_EXACT_TERM
