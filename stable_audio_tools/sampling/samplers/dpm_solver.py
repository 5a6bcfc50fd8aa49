"""DPM-Solver in ``t = -log(sigma)``, where ``eps = (x - denoised) / sigma`` varies slowly: with a fixed and with an adapted step.

Source: Lu et al. 2022, arXiv:2206.00927; orders and step size control as in k-diffusion. Both end at the last noise level, not at 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from stable_audio_tools.config.base import PositiveFloat
from stable_audio_tools.families import SAMPLERS
from stable_audio_tools.sampling.samplers.base import Network, OnStep, Step, advance_stream, ignore

Eps = Callable[[Tensor, Tensor], Tensor]


@SAMPLERS.register("k-dpm-fast", objectives=("v",), space="sigma", grid="ends")
def sample_dpm_fast(denoise: Network, x: Tensor, sigmas: Tensor, *, steps: int, on_step: OnStep = ignore) -> Tensor:
    """Third-order steps, and lower ones to use exactly ``steps`` network calls; a reported step is up to three calls.

    Args:
        denoise: Network, returning data.
        x: Data with noise of the first level (B, D, L).
        sigmas: First and last level (2,).
        steps: Number of network calls.
        on_step: Called after the first network call of every step.
    """
    t_start, t_end = -sigmas.log()
    count = steps // 3 + 1
    orders = [3] * (count - 2) + [2, 1] if steps % 3 == 0 else [3] * (count - 1) + [steps % 3]
    eps_at = _eps_of(denoise)
    for i, (order, (t, t_next)) in enumerate(zip(orders, pairwise(torch.linspace(float(t_start), float(t_end), count + 1)), strict=True)):
        eps = eps_at(x, t)
        on_step(Step(i, math.exp(-float(t)), x, x - eps * (-t).exp()))
        if order == 1:
            x_next = _partial(x, t, t_next, eps)
        elif order == 2:
            x_next = _step_2(eps_at, x, t, t_next, eps, 1 / 2)
        else:
            x_next = _step_3(eps_at, x, t, t_next, eps)
        advance_stream(x)
        x = x_next
    return x


@SAMPLERS.register("k-dpm-adaptive", objectives=("v",), space="sigma", grid="ends")
def sample_dpm_adaptive(
    denoise: Network,
    x: Tensor,
    sigmas: Tensor,
    *,
    rtol: PositiveFloat = 0.01,
    atol: PositiveFloat = 0.01,
    first_step: PositiveFloat = 0.05,
    on_step: OnStep = ignore,
) -> Tensor:
    """Second- and third-order steps side by side; their difference decides how long the next step is.

    The number of network calls follows from the data, not from ``steps``, and every step waits for the device to tell the error.

    Args:
        denoise: Network, returning data.
        x: Data with noise of the first level (B, D, L).
        sigmas: First and last level (2,).
        rtol: Error allowed, relative to the state.
        atol: Error allowed, absolute.
        first_step: Length of the first step tried, in log noise level.
        on_step: Called after every step taken.
    """
    t, t_end = -sigmas.log()
    eps_at = _eps_of(denoise)
    x_previous, h, count = x, first_step, 0
    eps: Tensor | None = None
    while t < t_end - 1e-5:
        t_next = torch.minimum(t_end, t + h)
        if eps is None:
            eps = eps_at(x, t)
        third = (t_next - t) / 3
        x_third = _partial(x, t, t + third, eps)
        eps_third = eps_at(x_third, t + third)
        low = _step_2(eps_at, x, t, t_next, eps, 1 / 3, eps_third)
        high = _step_3(eps_at, x, t, t_next, eps, eps_third)
        allowed = torch.clamp(rtol * torch.maximum(low.abs(), x_previous.abs()), min=atol)
        error = float(((low - high).float() / allowed.float()).square().mean().sqrt())
        factor = 1 + math.atan((1 / (error + 1e-8)) ** (1 / 3) - 1)
        if factor >= 0.81:
            on_step(Step(count, math.exp(-float(t)), x, x - eps * (-t).exp()))
            advance_stream(x)
            x_previous, x, t, eps = low, high, t_next, None
            count += 1
        h *= factor
    return x


def _eps_of(denoise: Network) -> Eps:
    def eps(x: Tensor, t: Tensor) -> Tensor:
        sigma = (-t).exp()
        return (x - denoise(x, sigma)) / sigma

    return eps


def _partial(x: Tensor, t: Tensor, t_next: Tensor, eps: Tensor) -> Tensor:
    """First order: the whole way, or a part of it, with one eps."""
    return x - (-t_next).exp() * torch.expm1(t_next - t) * eps


def _step_2(eps_at: Eps, x: Tensor, t: Tensor, t_next: Tensor, eps: Tensor, fraction: float, eps_inner: Tensor | None = None) -> Tensor:
    """Second order; ``eps_inner`` belongs to the time that lies ``fraction`` of the step ahead."""
    h = t_next - t
    if eps_inner is None:
        inner = t + fraction * h
        eps_inner = eps_at(_partial(x, t, inner, eps), inner)
    return _partial(x, t, t_next, eps) - (-t_next).exp() / (2 * fraction) * torch.expm1(h) * (eps_inner - eps)


def _step_3(eps_at: Eps, x: Tensor, t: Tensor, t_next: Tensor, eps: Tensor, eps_1: Tensor | None = None) -> Tensor:
    """Third order; ``eps_1`` belongs to the time a third of the step ahead."""
    h = t_next - t
    s1, s2 = t + h / 3, t + h * 2 / 3
    if eps_1 is None:
        eps_1 = eps_at(_partial(x, t, s1, eps), s1)
    bend = torch.expm1(h * 2 / 3) / (h * 2 / 3) - 1
    x_2 = _partial(x, t, s2, eps) - (-s2).exp() * 2 * bend * (eps_1 - eps)
    eps_2 = eps_at(x_2, s2)
    return _partial(x, t, t_next, eps) - (-t_next).exp() * 3 / 2 * (torch.expm1(h) / h - 1) * (eps_2 - eps)
