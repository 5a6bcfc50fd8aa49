"""Noise levels for the steps of a sampler, from noisy to clean. All on the CPU in float32, so that no step waits for a device."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from stable_audio_tools.sampling.shifts import Length, Shift


def linear(steps: int, sigma_max: float = 1.0) -> Tensor:
    """``steps + 1`` times from ``sigma_max`` to 0."""
    return torch.linspace(sigma_max, 0, steps + 1)


def shifted(steps: int, shift: Shift, length: Length, start: float = 1.0) -> Tensor:
    """Evenly spaced times, shifted.

    Args:
        steps: Number of steps.
        shift: The shift.
        length: Sequence length in latent frames; one per item, (B,), gives a grid per item.
        start: First time, in (0, 1]. The shifted grid is scaled to begin there, so that it falls from the first step on.

    Returns:
        (steps + 1,) or (B, steps + 1), falling from ``start`` to 0.
    """
    if isinstance(length, Tensor) and length.dim():
        length = length.float().cpu()[:, None]  # (B, 1)
    times = shift.shift(linear(steps, start), length)
    times = times * (start / times[..., :1])
    times[..., 0] = start
    return times


def polyexponential(steps: int, sigma_min: float = 0.01, sigma_max: float = 100.0, rho: float = 1.0) -> Tensor:
    """Noise levels that fall exponentially (``rho=1``) from ``sigma_max`` to ``sigma_min``, then 0: (steps + 1,).

    The grid falls: when ``sigma_max`` is not above ``sigma_min``, as with little noise on given data, it ends lower instead of rising,
    at ``sigma_max / e`` (2 more in log-SNR, as `log_snr` does).

    Source: k-diffusion's schedule of the same name.
    """
    if sigma_min >= sigma_max:
        sigma_min = noise_below(sigma_max)
    ramp = torch.linspace(1, 0, steps) ** rho
    sigmas = torch.exp(ramp * (math.log(sigma_max) - math.log(sigma_min)) + math.log(sigma_min))
    return torch.cat([sigmas, sigmas.new_zeros(1)])


def noise_below(sigma: float) -> float:
    """A noise level 2 higher in log-SNR."""
    return sigma / math.e


def log_snr(steps: int, sigma_max: float = 1.0, *, logsnr_start: float = -6.0, logsnr_end: float = 2.0) -> Tensor:
    """Times evenly spaced in log-SNR, for rectified flows: (steps + 1,), first ``sigma_max``, last 0.

    Args:
        steps: Number of steps.
        sigma_max: First time, in (0, 1].
        logsnr_start: Log-SNR that stands for time 1, whose own is minus infinity.
        logsnr_end: Log-SNR where the grid ends, before the step to 0.

    The grid falls strictly: when ``sigma_max`` is already cleaner than ``logsnr_end``, it ends later instead of rising first.
    """
    if not 0 < sigma_max <= 1:
        raise ValueError(f"a rectified flow starts at a time in (0, 1], got {sigma_max}")
    start = math.log((1 - sigma_max) / sigma_max + 1e-6) if sigma_max < 1 else logsnr_start
    end = logsnr_end if start < logsnr_end else start + 2.0
    times = torch.sigmoid(-torch.linspace(start, end, steps + 1))
    times[0] = sigma_max
    times[-1] = 0.0
    return times
