"""sample(): the one driver of all samplers. It owns schedule, starting point, noise source and the change of variables."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.families import SAMPLERS
from stable_audio_tools.sampling import schedules
from stable_audio_tools.sampling.objectives import objective as find_objective
from stable_audio_tools.sampling.samplers.base import NoiseSource, OnStep, ignore

Predict = Callable[[Tensor, Tensor], Tensor]


def default_sampler(objective: str) -> str:
    """The sampler used when none is named."""
    return {"v": "dpmpp-2m-sde", "rf_denoiser": "pingpong"}.get(objective, "euler")


def sampler_facts(name: str, objective: str) -> Mapping[str, Any]:
    """What a sampler states about itself: ``space`` is "sigma" (noise levels without limit) or "time" (0 to 1).

    Raises:
        ConfigError: If there is no such sampler, or it cannot be used with the objective.
    """
    facts = SAMPLERS.part(name).facts
    allowed = SAMPLERS.names(objectives=objective)
    if name not in allowed and ":" not in name:
        raise ConfigError(f"sampler {name!r} cannot be used with objective {objective!r}; use one of {', '.join(allowed)}")
    return facts


@torch.no_grad()
def sample(
    predict: Predict,
    noise: Tensor,
    *,
    objective: str,
    steps: int,
    sampler: str | None = None,
    init: Tensor | None = None,
    sigma_min: float = 0.01,
    sigma_max: float | None = None,
    rho: float = 1.0,
    on_step: OnStep = ignore,
) -> Tensor:
    """Turn noise into data.

    Args:
        predict: The network: (x (B, D, L), t (B,)) -> (B, D, L). Guidance is its business.
        noise: Standard normal, (B, D, L).
        objective: What the network predicts; decides which samplers can be used.
        steps: Number of steps; a step calls the network once or a few times.
        sampler: Name of the sampler; None is the objective's usual one.
        init: Data (B, D, L) to start from, mixed with noise at ``sigma_max``; if that is 0, it comes back as it is.
        sigma_min: Last noise level before 0, for samplers on an exponential grid.
        sigma_max: First noise level: up to hundreds for samplers on an exponential grid (default 100), a time in (0, 1] for the others
            (default 1; for objective ``v`` larger ones count as 1).
        rho: Curvature of the exponential grid; 1 is exponential.
        on_step: Called after every step.

    Returns:
        Data (B, D, L).

    Raises:
        ConfigError: If the sampler is unknown or cannot be used with the objective, or a number is out of range.
    """
    mixing = find_objective(objective)
    name = sampler or default_sampler(objective)
    facts = sampler_facts(name, objective)
    run = SAMPLERS.load(name)
    if steps < 1:
        raise ConfigError(f"steps must be at least 1, got {steps}")
    if sigma_max == 0 and init is not None:
        return init.expand_as(noise).clone()  # no noise at all: the input, unchanged
    if facts.get("space") == "sigma":
        return _sample_sigma(run, predict, noise, steps, init, sigma_min, 100.0 if sigma_max is None else sigma_max, rho, on_step, facts)
    time = 1.0 if sigma_max is None else min(sigma_max, 1.0)
    if not time > 0:
        raise ConfigError(f"sigma_max must be positive, got {sigma_max}")
    grid = schedules.log_snr if facts.get("grid") == "log_snr" else schedules.linear
    times = grid(steps, time)
    alpha, sigma = mixing.alpha_sigma(times[0])
    x = noise if init is None else init * alpha + noise * sigma

    def at_time(x: Tensor, t: Tensor) -> Tensor:
        return predict(x, _per_item(t, x))

    return run(at_time, x, times, on_step=on_step)


def _sample_sigma(
    run: Any,
    predict: Predict,
    noise: Tensor,
    steps: int,
    init: Tensor | None,
    sigma_min: float,
    sigma_max: float,
    rho: float,
    on_step: OnStep,
    facts: Any,
) -> Tensor:
    if not 0 < sigma_min <= sigma_max:
        raise ConfigError(f"need 0 < sigma_min <= sigma_max, got {sigma_min} and {sigma_max}")
    sigmas = schedules.polyexponential(steps, sigma_min, sigma_max, rho)
    if (sigmas.diff() >= 0).any():  # samplers divide by the distance
        raise ConfigError(
            f"{steps} noise levels from {sigma_max} to {sigma_min} with rho {rho}: some are equal in float32; take a wider range, fewer "
            "steps, or a rho closer to 1"
        )
    x = noise * sigmas[0]
    if init is not None:
        x = x + init
    options = {"noise": brownian_noise(x, sigmas)} if facts.get("stochastic") else {}
    return run(v_denoiser(predict), x, sigmas, on_step=on_step, **options)


def v_denoiser(predict: Predict) -> Predict:
    """The data that a v-predicting network sees in ``x = data + sigma * noise``.

    With ``t = atan(sigma) 2/pi`` the scaled input ``x / sqrt(sigma^2 + 1)`` lies on the network's path. Source: k-diffusion's VDenoiser.
    Noise levels stay in float32 whatever the network's type is: their squares overflow float16.
    """

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        spread = (sigma.square() + 1).sqrt()
        t = sigma.atan() * 2 / math.pi
        return predict(x / spread, _per_item(t, x)) * (-sigma / spread) + x / (sigma.square() + 1)

    return denoise


def _per_item(t: Tensor, x: Tensor) -> Tensor:
    return x.new_full((x.shape[0],), float(t))  # t lives on the CPU: nothing waits for the device


def brownian_noise(x: Tensor, sigmas: Tensor) -> NoiseSource:
    """Unit-variance noise between two noise levels, from one Brownian path, so that the result varies little with the number of steps.

    Its seed is drawn from torch's global CPU stream.
    """
    import torchsde  # pyright: ignore[reportMissingTypeStubs]

    levels = [float(sigma) for sigma in sigmas if sigma > 0]
    seed = int(torch.randint(0, 2**63 - 1, []).item())
    tree: Any = torchsde.BrownianTree(min(levels), torch.zeros_like(x), max(levels), entropy=seed)

    def noise(sigma: Tensor, sigma_next: Tensor) -> Tensor:
        # Six digits are the tree's resolution; it warns about ends that float32 puts a hair outside of it.
        return -tree(round(float(sigma_next), 6), round(float(sigma), 6)) / (sigma - sigma_next).sqrt()

    return noise
