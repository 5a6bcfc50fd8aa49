"""Encode and decode long audio in overlapping chunks, so that memory does not grow with length."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import torch
from torch import Tensor

from stable_audio_tools.errors import AudioError


def map_chunks(
    signal: Tensor,
    transform: Callable[[Tensor], Tensor],
    *,
    chunk_length: int,
    overlap_length: int,
    ratio: Fraction,
    trim: int,
    alignment: int = 1,
) -> Tensor:
    """Apply ``transform`` to overlapping chunks and join the results.

    Half the overlap is cut from both sides of every inner seam, so the result equals one whole pass as long as that half covers the
    transform's receptive field.

    Args:
        signal: (B, C, N)
        transform: (B, C, n) -> (B, D, n * ratio)
        chunk_length: Input steps per chunk.
        overlap_length: Input steps that neighbours share; less than ``chunk_length``.
        ratio: Output steps per input step.
        trim: Output steps cut from each side of a seam.
        alignment: Input steps; chunks start at multiples of it. A transform that itself works in chunks of so many steps would otherwise
            not do the same as in one pass. The last chunk may be longer for that, by less than this.

    Returns:
        (B, D, N * ratio), or as many steps less as ``transform`` gives less. A signal not longer than one chunk is transformed whole.

    Raises:
        AudioError: If the overlap is not smaller than the chunk.
    """
    if not 0 <= overlap_length < chunk_length:
        raise AudioError(f"chunked coding: overlap must be at least 0 and smaller than chunk_size, got {overlap_length} and {chunk_length}")
    length = signal.shape[-1]
    if length <= chunk_length:
        return transform(signal)
    hop = max((chunk_length - overlap_length) // alignment, 1) * alignment
    starts = list(range(0, length - chunk_length + 1, hop))
    if starts[-1] + chunk_length != length:
        starts.append((length - chunk_length) // alignment * alignment)
    if len(starts) > 1 and starts[-1] == starts[-2]:
        del starts[-1]
    expected = int(chunk_length * ratio)
    output: Tensor | None = None
    end = 0
    for index, start in enumerate(starts):
        is_last = index == len(starts) - 1
        part = transform(signal[..., start : None if is_last else start + chunk_length])  # (B, D, n * ratio)
        if output is None:
            output_length = max(math.ceil(length * ratio), part.shape[-1])
            output = torch.zeros(*part.shape[:-1], output_length, dtype=part.dtype, device=part.device)
        begin, left = int(start * ratio), trim if index else 0
        stop = part.shape[-1] if is_last else min(expected - trim, part.shape[-1])
        output[..., begin + left : begin + stop] = part[..., left:stop]
        end = begin + stop
    assert output is not None
    # Some decoders give a few samples less than asked for, at the end: those with odd strides.
    return output[..., :end]
