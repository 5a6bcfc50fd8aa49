"""Crops: which stretch of a clip is used, and where it lies in the whole.

The arithmetic needs no audio, so a loader plans first and decodes only the crop::

    plan = plan_crop(total_frames, num_samples, sample_rate, randomize=True, rng=rng)
    span = load(path, start=plan.start, num_frames=num_samples, sample_rate=sample_rate)
    crop = apply_crop(span.samples, plan)
"""

from __future__ import annotations

import random
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from stable_audio_tools.errors import AudioError


class RandInt(Protocol):
    """A source of random integers: a ``random.Random``, or the module ``random`` for the process-wide one."""

    def randint(self, a: int, b: int, /) -> int:
        """Uniform in [a, b], both ends included."""
        ...


class CropPlan(NamedTuple):
    """Where a crop lies in its clip."""

    start: int
    """First sample of the crop."""
    num_samples: int
    """Length of the crop with its padding."""
    t_start: float
    """Start, as a fraction of the clip (or of the crop, if that is longer)."""
    t_end: float
    """End of the padded crop, as the same fraction."""
    seconds_start: int
    """Start of the crop in the clip, rounded down."""
    seconds_total: int
    """Length of the whole clip, rounded up."""


class Crop(NamedTuple):
    """A crop and where it came from; the fields of :class:`CropPlan` mean the same here."""

    audio: Tensor
    """(..., C, num_samples), silent behind the end of the clip."""
    start: int
    t_start: float
    t_end: float
    seconds_start: int
    seconds_total: int
    padding_mask: Tensor
    """(num_samples,) float32: 1 where the clip is, 0 where it is padded."""


def random_crop_start(total: int, num_samples: int, rng: RandInt) -> int:
    """Draw the first sample of a crop; 0, without a draw, if the clip is no longer than the crop.

    Args:
        total: Samples in the clip.
        num_samples: Samples in the crop.
        rng: Where randomness comes from.

    Returns:
        Uniform in [0, total - num_samples], both ends included.
    """
    return rng.randint(0, total - num_samples) if total > num_samples else 0


def plan_crop(total_frames: int, num_samples: int, sample_rate: int, *, randomize: bool, rng: RandInt | None = None) -> CropPlan:
    """Choose a crop from the length of a clip alone.

    Args:
        total_frames: Samples in the whole clip, at ``sample_rate``.
        num_samples: Samples in the crop.
        sample_rate: Hz.
        randomize: Whether to draw the start, or to crop at 0.
        rng: Where randomness comes from; the module ``random`` by default, as upstream.

    Raises:
        AudioError: If a length or the rate is out of range.

    >>> plan_crop(441_000, 88_200, 44_100, randomize=False)
    CropPlan(start=0, num_samples=88200, t_start=0.0, t_end=0.2, seconds_start=0, seconds_total=10)
    """
    _check(total_frames, num_samples, sample_rate)
    start = random_crop_start(total_frames, num_samples, rng or random) if randomize else 0
    return _plan(start, total_frames, num_samples, sample_rate)


def plan_crop_at(start: int, total_frames: int, num_samples: int, sample_rate: int) -> CropPlan:
    """The crop that begins at a given sample.

    Args:
        start: First sample of the crop, at ``sample_rate``.
        total_frames: Samples in the whole clip.
        num_samples: Samples in the crop.
        sample_rate: Hz.

    Raises:
        AudioError: If a length, the rate or the start is out of range.

    >>> plan_crop_at(88_200, 441_000, 88_200, 44_100).seconds_start
    2
    """
    _check(total_frames, num_samples, sample_rate)
    _check_start(start, total_frames)
    return _plan(start, total_frames, num_samples, sample_rate)


def apply_crop(span: Tensor, plan: CropPlan) -> Crop:
    """Pad what was decoded for ``plan`` to its full length.

    Args:
        span: (..., C, T) waveform that begins at ``plan.start``; longer than the crop is cut, shorter is padded.
        plan: From :func:`plan_crop`.
    """
    span = span[..., : plan.num_samples]
    num_held = span.shape[-1]
    missing = plan.num_samples - num_held
    audio = torch.nn.functional.pad(span, (0, missing)) if missing else span  # (..., C, num_samples)
    mask = torch.ones(plan.num_samples, dtype=torch.float32, device=span.device)
    mask[num_held:] = 0
    return Crop(audio, plan.start, plan.t_start, plan.t_end, plan.seconds_start, plan.seconds_total, mask)


def normalized_crop(audio: Tensor, num_samples: int, sample_rate: int, *, randomize: bool, rng: RandInt | None = None) -> Crop:
    """Crop audio that is already decoded; :func:`plan_crop` and :func:`apply_crop` in one.

    Args:
        audio: (..., C, T) the whole clip.
        num_samples: Samples in the crop.
        sample_rate: Hz.
        randomize: Whether to draw the start, or to crop at 0.
        rng: Where randomness comes from; the module ``random`` by default.

    >>> crop = normalized_crop(torch.ones(2, 300), 400, 100, randomize=True)
    >>> crop.audio.shape, crop.t_end, crop.seconds_total, int(crop.padding_mask.sum())
    (torch.Size([2, 400]), 1.0, 3, 300)
    """
    plan = plan_crop(audio.shape[-1], num_samples, sample_rate, randomize=randomize, rng=rng)
    return apply_crop(audio[..., plan.start :], plan)


def pad_crop(audio: Tensor, num_samples: int, *, start: int = 0, sample_rate: int = 1) -> Crop:
    """Cut ``num_samples`` starting at ``start``; pad the end with silence if the clip is short.

    Args:
        audio: (..., C, T) waveform.
        num_samples: Length of the result, in samples (not seconds).
        start: First sample kept; must be in [0, T].
        sample_rate: Hz; at 1, the seconds in the result count samples.

    Raises:
        AudioError: If ``start`` is outside the clip, or a length or the rate is out of range.

    >>> pad_crop(torch.ones(2, 3), 5).padding_mask.tolist()
    [1.0, 1.0, 1.0, 0.0, 0.0]
    """
    total = audio.shape[-1]
    _check(total, num_samples, sample_rate)
    _check_start(start, total)
    return apply_crop(audio[..., start:], _plan(start, total, num_samples, sample_rate))


def _plan(start: int, total: int, num_samples: int, sample_rate: int) -> CropPlan:
    longer = max(total, num_samples)
    return CropPlan(
        start=start,
        num_samples=num_samples,
        t_start=start / longer,
        t_end=(start + num_samples) / longer,
        seconds_start=start // sample_rate,
        seconds_total=-(-total // sample_rate),
    )


def _check_start(start: int, total: int) -> None:
    if not 0 <= start <= total:
        raise AudioError(f"crop: cannot start at sample {start} of a clip of {total}; allowed are 0 to {total}")


def _check(total: int, num_samples: int, sample_rate: int) -> None:
    if total < 0 or num_samples < 1 or sample_rate < 1:
        given = f"{num_samples} samples of {total} at {sample_rate} Hz"
        raise AudioError(f"crop: cannot take {given}; the crop and the rate must be at least 1, the clip at least 0")
