"""Shortening of long silences."""

from __future__ import annotations

import torch
from torch import Tensor

from stable_audio_tools.audio.crop import RandInt


def remove_long_silence(audio: Tensor, sample_rate: int, *, level: float, kept_seconds: float, max_seconds: float, rng: RandInt) -> Tensor:
    """Shorten every silence that is longer than ``max_seconds`` to ``kept_seconds`` of itself, taken from anywhere in it.

    Args:
        audio: (C, T).
        sample_rate: In Hz.
        level: Samples are silent if no channel is above this magnitude; full scale is 1.0.
        kept_seconds: What stays of a long silence; all of it, if it is shorter than that.
        max_seconds: Longest silence that is left alone.
        rng: Draws which part stays.

    Returns:
        (C, t), t <= T.
    """
    silent = (audio.abs().amax(dim=0) < level).int()  # (T,)
    edges = torch.diff(silent, prepend=silent.new_zeros(1), append=silent.new_zeros(1))
    starts, ends = (edges == 1).nonzero().flatten().tolist(), (edges == -1).nonzero().flatten().tolist()
    kept, pieces, done = int(kept_seconds * sample_rate), [], 0
    for start, end in zip(starts, ends, strict=True):
        if end - start <= max_seconds * sample_rate or end - start <= kept:
            continue
        first = start + rng.randint(0, end - start - kept)
        pieces += [audio[:, done:start], audio[:, first : first + kept]]
        done = end
    return torch.cat([*pieces, audio[:, done:]], dim=1)
