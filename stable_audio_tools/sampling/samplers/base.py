"""The contract of samplers.

Two spaces, because two traditions write their formulas differently:

* ``space="sigma"`` (k-diffusion): ``sample(denoise, x, sigmas, *, noise, on_step)``, where ``x = data + sigma * noise`` and
  ``denoise(x, sigma)`` returns the data it sees. Used with objective ``v``. With ``grid="ends"`` a sampler chooses its levels itself:
  ``sigmas`` is then (2,), the first and the last level, which is not 0, and ``steps`` may be asked for.
* ``space="time"``: ``sample(predict, x, times, *, on_step, ...)``, where ``predict(x, t)`` is the network's prediction; with ``pair=True``
  it is two, the guided one and the unconditional one.

``x`` is (B, D, L); ``sigmas`` / ``times`` are (steps + 1,) on the CPU, falling, the last one 0. With ``per_item=True`` ``times`` may be
(B, steps + 1) as well, on x's device. ``stochastic`` names the noise it asks for: ``"brownian"`` or ``"gaussian"`` (see `sampling.run`),
or ``"own"`` if it draws itself. A sampler returns (B, D, L).
Guidance, schedules, seeds, progress and data types are the business of `sampling.run`, so that a sampler cannot get them wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from stable_audio_tools.families import SAMPLERS


class Step(NamedTuple):
    """What a sampler reports after every step.

    Attributes:
        i: Index of the step, from 0.
        t: Where the network was called: a sampler reports a time in [0, 1], or a noise level in sigma space; `sampling.run` passes on the
            time in any case. (B,) on x's device if every item has its own.
        x: State before the step, (B, D, L).
        denoised: The data as the network sees it now, (B, D, L).
        sigma: The noise level there, from `sampling.run`: the share of noise in ``x``, or beside data of weight 1 in sigma space.
    """

    i: int
    t: float | Tensor
    x: Tensor
    denoised: Tensor
    sigma: float | Tensor | None = None


OnStep = Callable[[Step], None]
Network = Callable[[Tensor, Tensor], Tensor]
PairNetwork = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
NoiseSource = Callable[[Tensor, Tensor], Tensor]


def ignore(step: Step) -> None:
    """Report to nobody."""


def steps_of(times: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Index, time and next time of every step.

    Args:
        times: (steps + 1,), or (B, steps + 1) if every item has its own.

    Yields:
        Times (), or (B, 1, 1).
    """
    columns = times if times.dim() == 1 else times.T[..., None, None]
    yield from ((i, t, t_next) for i, (t, t_next) in enumerate(pairwise(columns)))


def time_of(t: Tensor) -> float | Tensor:
    """A time of `steps_of` as a `Step` reports it, without waiting for a device."""
    return float(t) if t.dim() == 0 else t.flatten()


def advance_stream(x: Tensor) -> None:
    """Draw noise that published samplers draw and give no weight, so that what is drawn next (a decoder's noise) is as published."""
    torch.randn_like(x)


__all__ = ["SAMPLERS", "Network", "NoiseSource", "OnStep", "PairNetwork", "Step", "advance_stream", "ignore", "steps_of", "time_of"]
