"""PCM samples: the one place where 16-bit integers become floats and back."""

from __future__ import annotations

from collections import deque

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stable_audio_tools.errors import AudioError

INT16_FULL_SCALE = 32767


def to_int16(audio: Tensor) -> Tensor:
    """Round floats to 16-bit integers; +-1.0 is +-32767, beyond the 16-bit range is clipped.

    One factor both ways makes this the exact inverse of :func:`from_int16` on all 65,536 values, and keeps zero and polarity:
    ``to_int16(-audio) == -to_int16(audio)`` up to full scale. Files hold 32768ths: every decoder (libsndfile, ffmpeg) divides 16-bit
    files by 32768, so a file written from +-1.0 loads with a peak of 0.99997.

    Args:
        audio: (...) float waveform, full scale 1.0.

    Returns:
        (...) int16, rounded to nearest.

    Raises:
        AudioError: If ``audio`` is not floating point.

    >>> to_int16(torch.tensor([-2.0, -1.0, 0.0, 1.0])).tolist()
    [-32768, -32767, 0, 32767]
    """
    if not audio.is_floating_point():
        raise AudioError(f"to_int16: expected a float tensor, got {audio.dtype}; int16 audio needs no conversion")
    scaled = audio.to(torch.float64 if audio.dtype == torch.float64 else torch.float32) * INT16_FULL_SCALE  # half cannot hold 32767
    return scaled.round().clamp(-INT16_FULL_SCALE - 1, INT16_FULL_SCALE).to(torch.int16)


def from_int16(audio: Tensor) -> Tensor:
    """Turn 16-bit integers into float32; 32767 is 1.0. Inverse of :func:`to_int16`.

    Args:
        audio: (...) int16.

    Returns:
        (...) float32 in [-1.00004, 1].

    Raises:
        AudioError: If ``audio`` is not int16.

    >>> from_int16(torch.tensor([-32767, 0, 32767], dtype=torch.int16)).tolist()
    [-1.0, 0.0, 1.0]
    """
    if audio.dtype != torch.int16:
        raise AudioError(f"from_int16: expected an int16 tensor, got {audio.dtype}; convert other integers by their own full scale")
    return audio.to(torch.float32) / INT16_FULL_SCALE


def join_blocks(blocks: deque[NDArray[np.float32]], num_channels: int) -> NDArray[np.float32]:
    """Join (C, t) blocks to one (C, T) array, emptying ``blocks`` on the way: the peak is one copy of the audio, not two."""
    joined = np.empty((num_channels, sum(block.shape[1] for block in blocks)), dtype=np.float32)
    position = 0
    while blocks:
        block = blocks.popleft()
        joined[:, position : position + block.shape[1]] = block
        position += block.shape[1]
    return joined
