"""Kept import path: samplers as functions of a network; `stable_audio_tools.sampling` has them all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from stable_audio_tools.sampling import run, schedules
from stable_audio_tools.sampling.objectives import objective
from stable_audio_tools.sampling.samplers.base import Step
from stable_audio_tools.sampling.samplers.euler import sample_euler
from stable_audio_tools.sampling.shifts import DistributionShift, Shift
from stable_audio_tools.sampling.timesteps import truncated_logistic_normal_rescaled

Callback = Callable[[dict[str, Any]], Any]


def get_alphas_sigmas(t: Tensor) -> tuple[Tensor, Tensor]:
    """Weights of data and noise at times ``t`` in [0, 1] of the ``v`` objective: cos(t pi/2) and sin(t pi/2)."""
    return objective("v").alpha_sigma(t)


def sample(
    model: Callable[..., Tensor],
    x: Tensor,
    steps: int,
    eta: float,
    callback: Callback | None = None,
    sigma_max: float = 1.0,
    dist_shift: Shift | None = None,
    **extra_args: Any,
) -> Tensor:
    """DDIM for a network that predicts ``v``.

    Args:
        model: (x (B, D, L), t (B,), **extra_args) -> (B, D, L).
        x: Noise, or noised data at time ``sigma_max``, (B, D, L).
        steps: Number of steps.
        eta: Noise added in every step: 0 none, 1 as much as DDPM.
        callback: Called after every step with ``x``, ``t``, ``i`` and ``denoised``.
        sigma_max: Time to start from.
        dist_shift: Shift of the times.
        **extra_args: For the network.

    Returns:
        (B, D, L)
    """
    return run.sample(
        lambda x, t: model(x, t.to(x), **extra_args),
        x,
        objective="v",
        sampler="v-ddim",
        steps=steps,
        sigma_max=sigma_max,
        shift=dist_shift,
        options={"eta": float(eta)},
        on_step=_reporter(callback),
    )


@torch.no_grad()
def sample_discrete_euler(
    model: Callable[..., Tensor],
    x: Tensor,
    steps: int | Tensor | None = None,
    sigma_max: float = 1.0,
    sigmas: Tensor | None = None,
    callback: Callback | None = None,
    dist_shift: Shift | None = None,
    disable_tqdm: bool = True,
    **extra_args: Any,
) -> Tensor:
    """Euler's method for a network that predicts the velocity of a rectified flow.

    Args:
        model: (x (B, D, L), t (B,), **extra_args) -> (B, D, L).
        x: Noise, or noised data at the first time, (B, D, L).
        steps: Number of steps, evenly spaced from ``sigma_max`` to 0; or, as in version 0.0.20, the times themselves.
        sigma_max: Time to start from.
        sigmas: Times, falling, instead of steps.
        callback: Called after every step with ``x``, ``t``, ``i`` and ``denoised``.
        dist_shift: Shift of evenly spaced times, by the length of ``x``.
        disable_tqdm: Accepted; there is no progress bar.
        **extra_args: For the network.

    Returns:
        (B, D, L)
    """
    times = steps if isinstance(steps, Tensor) else sigmas
    if times is None:
        if steps is None:
            raise TypeError("sample_discrete_euler needs steps or sigmas")
        count = int(steps)
        times = schedules.linear(count, sigma_max)
        times = times if dist_shift is None else schedules.shifted(count, dist_shift, x.shape[-1], sigma_max)

    def at_time(x: Tensor, t: Tensor) -> Tensor:
        return model(x, torch.as_tensor(t).to(x).expand(len(x)), **extra_args)

    return sample_euler(at_time, x, times, on_step=_reporter(callback))


def _reporter(callback: Callback | None) -> Callable[[Step], None]:
    def report(step: Step) -> None:
        if callback is not None:
            callback({"x": step.x, "t": step.t, "sigma": step.t, "i": step.i, "denoised": step.denoised})

    return report


__all__ = ["DistributionShift", "get_alphas_sigmas", "sample", "sample_discrete_euler", "truncated_logistic_normal_rescaled"]
