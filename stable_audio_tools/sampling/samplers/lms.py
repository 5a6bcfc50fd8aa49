"""The linear multistep method (Adams-Bashforth on an uneven grid)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor

from stable_audio_tools.config.base import PositiveInt
from stable_audio_tools.families import SAMPLERS
from stable_audio_tools.sampling.samplers.base import Network, OnStep, Step, ignore


@SAMPLERS.register("k-lms", objectives=("v",), space="sigma", grid="polyexponential")
def sample_lms(denoise: Network, x: Tensor, sigmas: Tensor, *, order: PositiveInt = 4, on_step: OnStep = ignore) -> Tensor:
    """Fourth order, one network call per step: integrates the polynomial through the last slopes.

    Args:
        denoise: Network, returning data.
        x: Data with noise of the first level (B, D, L).
        sigmas: (steps + 1,), falling to 0.
        order: Number of slopes; the first steps have fewer.
        on_step: Called after every network call.
    """
    levels = [float(sigma) for sigma in sigmas]
    slopes: list[Tensor] = []  # the newest first
    for i, (sigma, _) in enumerate(pairwise(sigmas)):
        denoised = denoise(x, sigma)
        on_step(Step(i, float(sigma), x, denoised))
        slopes = [(x - denoised) / sigma, *slopes][:order]
        weights = lagrange_integrals(levels[i::-1][: len(slopes)], levels[i], levels[i + 1])
        for weight, slope in zip(weights, slopes, strict=True):
            x = x + weight * slope
    return x


def lagrange_integrals(nodes: Sequence[float], start: float, end: float) -> list[float]:
    """Integrals from ``start`` to ``end`` of the polynomials that are 1 at one node and 0 at the others.

    >>> lagrange_integrals([0.0, 1.0], 0.0, 1.0)
    [0.5, 0.5]
    """
    shifted = [float(node) - start for node in nodes]  # small numbers near the integral: nothing cancels
    integrals: list[float] = []
    for index, node in enumerate(shifted):
        basis = [1.0]  # coefficients, the constant one first
        for position, other in enumerate(shifted):
            if position != index:
                times_tau, times_other = [0.0, *basis], [*basis, 0.0]
                basis = [(a - other * b) / (node - other) for a, b in zip(times_tau, times_other, strict=True)]
        integrals.append(sum(value * (end - start) ** (power + 1) / (power + 1) for power, value in enumerate(basis)))
    return integrals
