"""The contract of samplers.

Two spaces, because two traditions write their formulas differently:

* ``space="sigma"`` (k-diffusion): ``sample(denoise, x, sigmas, *, noise, on_step)``, where ``x = data + sigma * noise`` and
  ``denoise(x, sigma)`` returns the data it sees. Used with objective ``v``.
* ``space="time"``: ``sample(predict, x, times, *, on_step, ...)``, where ``predict(x, t)`` is the network's prediction.

``x`` is (B, D, L); ``sigmas`` / ``times`` are (steps + 1,) on the CPU, falling, the last one 0. A sampler returns (B, D, L).
Guidance, schedules, seeds, progress and data types are the business of `sampling.run`, so that a sampler cannot get them wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from stable_audio_tools.families import SAMPLERS


class Step(NamedTuple):
    """What a sampler reports after every step.

    Attributes:
        i: Index of the step, from 0.
        t: Time in [0, 1] (or noise level, in sigma space) at which the network was called.
        x: State before the step, (B, D, L).
        denoised: The data as the network sees it now, (B, D, L).
    """

    i: int
    t: float
    x: Tensor
    denoised: Tensor


OnStep = Callable[[Step], None]
Network = Callable[[Tensor, Tensor], Tensor]
NoiseSource = Callable[[Tensor, Tensor], Tensor]


def ignore(step: Step) -> None:
    """Report to nobody."""


__all__ = ["SAMPLERS", "Network", "NoiseSource", "OnStep", "Step", "ignore"]
