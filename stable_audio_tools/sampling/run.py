"""sample(): the one driver of all samplers. It owns schedule, starting point, noise source and the change of variables."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.families import SAMPLERS
from stable_audio_tools.registry.signature import Part
from stable_audio_tools.sampling import schedules
from stable_audio_tools.sampling.objectives import objective as find_objective
from stable_audio_tools.sampling.samplers.base import NoiseSource, OnStep, Step, ignore
from stable_audio_tools.sampling.shifts import Length, Shift

Predict = Callable[[Tensor, Tensor], Tensor]
PredictPair = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


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
    shift: Shift | None = None,
    length: Length | None = None,
    options: Mapping[str, Any] | None = None,
    predict_pair: PredictPair | None = None,
    on_step: OnStep = ignore,
) -> Tensor:
    """Turn noise into data.

    Args:
        predict: The network: (x (B, D, L), t (B,)) -> (B, D, L). Guidance is its business. Times are float32; they are on the CPU if all
            items have the same, so that they can be looked at without waiting for a device, else on the device of ``x``.
        noise: Standard normal, (B, D, L).
        objective: What the network predicts; decides which samplers can be used.
        steps: Number of steps; a step calls the network once or a few times.
        sampler: Name of the sampler; None is the objective's usual one.
        init: Data (B, D, L) to start from, mixed with noise at ``sigma_max``; if that is 0, it comes back as it is.
        sigma_min: Last noise level before 0, for samplers on an exponential grid.
        sigma_max: First noise level: up to hundreds for samplers on an exponential grid (default 100), a time in (0, 1] for the others
            (default 1; larger ones count as 1).
        rho: Curvature of the exponential grid; 1 is exponential.
        shift: Take evenly spaced times through this shift instead of the sampler's own grid. Not for samplers on an exponential grid.
        length: What the shift goes by, in latent frames: a number, or one per item (B,), for samplers that can; None is L.
        options: Options of the sampler itself, such as ``eta`` of ``v-ddim``.
        predict_pair: The network with and without condition, for samplers that need both; None is `predict` for both.
        on_step: Called after every step.

    Returns:
        Data (B, D, L).

    Raises:
        ConfigError: If the sampler is unknown or cannot be used with the objective, or a number is out of range.
    """
    name = sampler or default_sampler(objective)
    mixing = find_objective(objective)
    facts = sampler_facts(name, objective)
    part = SAMPLERS.part(name)
    run = SAMPLERS.load(name)
    own = SAMPLERS.schema(name).arguments(options or {}, where=f"sampler {name!r}")
    if steps < 1:
        raise ConfigError(f"steps must be at least 1, got {steps}")
    if sigma_max == 0 and init is not None:
        return init.expand_as(noise).clone()  # no noise at all: the input, unchanged
    if facts.get("space") == "sigma":
        if shift is not None:
            raise ConfigError(f"sampler {name!r} has a grid of noise levels, which a distribution shift of times cannot change")
        highest = 100.0 if sigma_max is None else sigma_max
        return _sample_sigma(run, predict, noise, steps, init, sigma_min, highest, rho, on_step, part, own)
    start = 1.0 if sigma_max is None else min(sigma_max, 1.0)
    if not start > 0:
        raise ConfigError(f"sigma_max must be positive, got {sigma_max}")
    if shift is not None:
        times = schedules.shifted(steps, shift, noise.shape[-1] if length is None else length, start)
    else:
        times = (schedules.log_snr if facts.get("grid") == "log_snr" else schedules.linear)(steps, start)
    if times.dim() == 2 and not facts.get("per_item"):
        able = ", ".join(item for item in SAMPLERS.names(objectives=objective) if SAMPLERS.part(item).facts.get("per_item"))
        raise ConfigError(f"sampler {name!r} has one grid for the whole batch, not one per item; {able or 'none'} can")
    alpha, sigma = mixing.alpha_sigma(torch.tensor(start))
    x = noise if init is None else init * alpha + noise * sigma
    call: Any = predict
    if facts.get("pair"):
        call = predict_pair if predict_pair is not None else lambda x, t: (predict(x, t),) * 2  # type: ignore[misc]

    def at_time(x: Tensor, t: Tensor) -> Any:
        return call(x, _per_item(t, x))

    def report(step: Step) -> None:
        sigma = mixing.alpha_sigma(torch.as_tensor(step.t))[1]
        on_step(step._replace(sigma=sigma if isinstance(step.t, Tensor) else float(sigma)))

    return run(at_time, x, times if times.dim() == 1 else times.to(x.device), on_step=report, **own).to(noise.dtype)


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
    part: Part,
    own: dict[str, Any],
) -> Tensor:
    facts = part.facts
    if sigma_min <= 0 or sigma_max <= 0 or (init is None and sigma_min > sigma_max):
        raise ConfigError(f"need 0 < sigma_min <= sigma_max, got {sigma_min} and {sigma_max}")
    if init is not None and sigma_min >= sigma_max:  # little noise: the grid must fall nevertheless
        sigma_min = schedules.noise_below(sigma_max)
    is_free = facts.get("grid") == "ends"
    sigmas = torch.tensor([sigma_max, sigma_min]) if is_free else schedules.polyexponential(steps, sigma_min, sigma_max, rho)
    if (sigmas.diff() >= 0).any():  # samplers divide by the distance
        raise ConfigError(
            f"{steps} noise levels from {sigma_max} to {sigma_min} with rho {rho}: some are equal in float32; take a wider range, fewer "
            "steps, or a rho closer to 1"
        )
    x = noise * sigmas[0]
    if init is not None:
        x = x + init
    if facts.get("stochastic"):
        own["noise"] = {"brownian": brownian_noise, "gaussian": gaussian_noise}[facts["stochastic"]](x, sigmas)
    if any(parameter.name == "steps" for parameter in part.parameters):
        own["steps"] = steps

    def report(step: Step) -> None:
        t = _time_of(torch.as_tensor(step.t))
        on_step(step._replace(t=t if isinstance(step.t, Tensor) else float(t), sigma=step.t))

    return run(v_denoiser(predict), x, sigmas, on_step=report, **own)


def _time_of(sigma: Tensor) -> Tensor:
    """The time at which noise has this weight beside data of weight 1."""
    return sigma.atan() * 2 / math.pi


def v_denoiser(predict: Predict) -> Predict:
    """The data that a v-predicting network sees in ``x = data + sigma * noise``.

    With ``t = atan(sigma) 2/pi`` the scaled input ``x / sqrt(sigma^2 + 1)`` lies on the network's path. Source: k-diffusion's VDenoiser.
    Noise levels stay in float32 whatever the network's type is: their squares overflow float16.
    """

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        spread = (sigma.square() + 1).sqrt()
        return predict(x / spread, _per_item(_time_of(sigma), x)) * (-sigma / spread) + x / (sigma.square() + 1)

    return denoise


def _per_item(t: Tensor, x: Tensor) -> Tensor:
    """A time () on the CPU, or times (B, 1, 1) on x's device, as (B,)."""
    return t.expand(x.shape[0]) if t.dim() == 0 else t.flatten()


def gaussian_noise(x: Tensor, sigmas: Tensor) -> NoiseSource:
    """Fresh noise like ``x`` at every call, from the global stream of its device."""
    return lambda sigma, sigma_next: torch.randn_like(x)


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
