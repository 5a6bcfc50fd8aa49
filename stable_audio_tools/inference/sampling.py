"""Kept import path: the published call shapes of the samplers; `stable_audio_tools.sampling` has them all.

New code takes `stable_audio_tools.sampling.run.sample`, which has all samplers, grids and shifts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from stable_audio_tools.families import SAMPLERS
from stable_audio_tools.inference.denoising import EVERYWHERE, Callback, GuidedNetwork, decoded, reporter
from stable_audio_tools.models.diffusion.base import prepared
from stable_audio_tools.sampling import run, schedules
from stable_audio_tools.sampling.objectives import VObjective
from stable_audio_tools.sampling.shifts import DistributionShift, FluxDistributionShift, Length, LogSNRShift, Shift
from stable_audio_tools.sampling.timesteps import truncated_logistic_normal_rescaled

Model = Callable[..., Any]


def get_alphas_sigmas(t: Tensor) -> tuple[Tensor, Tensor]:
    """Weights of data and noise at times ``t`` of the v objective."""
    return VObjective().alpha_sigma(t)


def build_schedule(
    steps: int,
    sigma_max: float = 1.0,
    dist_shift: Shift | None = None,
    effective_seq_len: Length | None = None,
    fallback_seq_len: int | None = None,
    include_endpoint: bool = True,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Times (steps + 1,) from ``sigma_max`` to 0, shifted; (B, steps + 1) if there is a length per item."""
    if dist_shift is None:
        times = schedules.linear(steps, min(sigma_max, 1.0))
    else:
        length = effective_seq_len if effective_seq_len is not None else fallback_seq_len
        times = schedules.shifted(steps, dist_shift, 1 if length is None else length, min(sigma_max, 1.0))
    return (times if include_endpoint else times[..., :-1]).to(device)


@torch.no_grad()
def sample(
    model: Model,
    x: Tensor,
    steps: int,
    eta: float,
    callback: Callback | None = None,
    sigma_max: float = 1.0,
    dist_shift: Shift | None = None,
    cfg_pp: bool = False,
    **extra_args: Any,
) -> Tensor:
    """DDIM for the v objective, from ``x`` as noise."""

    def pair(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        guided, info = model(x, t.to(x.device), **extra_args, return_info=True)
        return guided, info.get("uncond_output", guided)

    return run.sample(
        _network(model, extra_args),
        x,
        objective="v",
        steps=steps,
        sampler="v-ddim-cfgpp" if cfg_pp else "v-ddim",
        sigma_max=sigma_max,
        shift=dist_shift,
        options={"eta": eta},
        predict_pair=pair if cfg_pp else None,
        on_step=reporter(callback, _bar(steps, True)),
    )


def _flow_sampler(name: str, doc: str) -> Callable[..., Tensor]:
    @torch.no_grad()
    def run_sampler(
        model: Model,
        x: Tensor,
        steps: int | Tensor | None = None,
        sigma_max: float = 1.0,
        sigmas: Tensor | None = None,
        callback: Callback | None = None,
        dist_shift: Shift | None = None,
        disable_tqdm: bool = False,
        **extra_args: Any,
    ) -> Tensor:
        if isinstance(steps, Tensor):  # version 0.0.20 passes the times third
            steps, sigmas = None, steps
        if sigmas is None:
            if steps is None:
                raise TypeError(f"sampler {name!r} needs steps or sigmas")
            sigmas = build_schedule(steps, sigma_max, dist_shift, fallback_seq_len=x.shape[-1])
        sigmas = sigmas.float().cpu() if sigmas.dim() == 1 else sigmas.float().to(x.device)
        network = _network(model, extra_args)

        def at_time(x: Tensor, t: Tensor) -> Tensor:
            return network(x, t.expand(x.shape[0]) if t.dim() == 0 else t.flatten())

        with _bar(sigmas.shape[-1] - 1, disable_tqdm) as bar:
            return SAMPLERS.load(name)(at_time, x, sigmas, on_step=reporter(callback, bar)).to(x.dtype)

    run_sampler.__name__ = run_sampler.__qualname__ = f"sample_{name}"
    run_sampler.__doc__ = doc
    return run_sampler


sample_discrete_euler = _flow_sampler(
    "euler", "Euler's method for flows, over ``sigmas`` or ``steps`` evenly spaced (and shifted) times; ``sigmas`` may come third too."
)
sample_rk4 = _flow_sampler("rk4", "The classical Runge-Kutta method for flows, with times as for `sample_discrete_euler`.")
sample_flow_dpmpp = _flow_sampler("dpmpp", "DPM-Solver++ for flows, with times as for `sample_discrete_euler`.")
sample_flow_pingpong = _flow_sampler("pingpong", "Ping-pong for flows, with times as for `sample_discrete_euler`.")


@torch.no_grad()
def sample_k(
    model_fn: Model,
    noise: Tensor,
    init_data: Tensor | None = None,
    steps: int = 100,
    sampler_type: str = "dpmpp-2m-sde",
    sigma_min: float = 0.01,
    sigma_max: float = 100.0,
    rho: float = 1.0,
    device: torch.device | str | None = None,
    callback: Callback | None = None,
    **extra_args: Any,
) -> Tensor:
    """Any sampler of the v objective. ``device`` has no effect: the noise is where it is."""
    return run.sample(
        _network(model_fn, extra_args),
        noise,
        objective="v",
        steps=steps,
        sampler=sampler_type,
        init=init_data,
        sigma_min=sigma_min,
        sigma_max=sigma_max,
        rho=rho,
        on_step=reporter(callback, _bar(steps, True)),
    )


@torch.no_grad()
def sample_rf(
    model_fn: Model,
    noise: Tensor,
    init_data: Tensor | None = None,
    steps: int = 100,
    sampler_type: str = "euler",
    sigma_max: float = 1.0,
    device: torch.device | str | None = None,
    callback: Callback | None = None,
    dist_shift: Shift | None = None,
    **extra_args: Any,
) -> Tensor:
    """Any sampler of flows, on its own grid. As published, only ``rk4`` follows ``dist_shift``; ``device`` has no effect."""
    return run.sample(
        _network(model_fn, extra_args),
        noise,
        objective="rectified_flow",
        steps=steps,
        sampler=sampler_type,
        init=init_data,
        sigma_max=sigma_max,
        shift=dist_shift if sampler_type == "rk4" else None,
        on_step=reporter(callback, _bar(steps, True)),
    )


@torch.no_grad()
def sample_diffusion(
    model: Model,
    noise: Tensor,
    cond_inputs: Mapping[str, Any],
    diffusion_objective: str,
    steps: int,
    cfg_scale: float = 1.0,
    *,
    pretransform: Any = None,
    padding_mask: Tensor | None = None,
    dist_shift: Shift | None = None,
    sampler_type: str | None = None,
    batch_cfg: bool = True,
    rescale_cfg: bool = False,
    apg_scale: float = 1.0,
    init_data: Tensor | None = None,
    init_noise_level: float = 1.0,
    callback: Callback | None = None,
    disable_tqdm: bool = False,
    decode: bool = True,
    **sampler_kwargs: Any,
) -> Tensor:
    """Sample a backbone with the defaults of version 0.0.20, and decode. ``generate_diffusion_cond`` does more, and is easier.

    Args:
        model: The backbone (``ConditionedDiffusionModelWrapper.model``).
        noise: (B, D, L)
        cond_inputs: What ``get_conditioning_inputs`` returned.
        diffusion_objective: What the backbone predicts.
        steps: Sampler steps.
        cfg_scale: Guidance scale.
        pretransform: Decodes the result.
        padding_mask: (B, L), False at padding, which is silenced too.
        dist_shift: Shift of the times; None is the sampler's own grid.
        sampler_type: None is the objective's usual one.
        batch_cfg: Has no effect.
        rescale_cfg: For backbones that know it.
        apg_scale: See `stable_audio_tools.sampling.guidance.guide`.
        init_data: Latents to vary.
        init_noise_level: How much noise is mixed into them.
        callback: Called after every step.
        disable_tqdm: Show no progress.
        decode: Decode, if there is a ``pretransform``.
        **sampler_kwargs: ``sigma_min``, ``sigma_max``, ``rho``; anything else goes to the backbone.
    """
    ranges = {key: sampler_kwargs.pop(key) for key in ("sigma_min", "sigma_max", "rho") if key in sampler_kwargs}
    if init_data is not None:
        ranges["sigma_max"] = init_noise_level
    name = sampler_type or run.default_sampler(diffusion_objective)
    interval = sampler_kwargs.pop("cfg_interval", EVERYWHERE)
    conditions = prepared(model, cond_inputs, noise.shape[-1]) | {"batch_cfg": batch_cfg, "rescale_cfg": rescale_cfg} | sampler_kwargs
    conditions |= {} if padding_mask is None else {"padding_mask": padding_mask}
    conditions |= {"apg_scale": apg_scale} if cfg_scale != 1.0 else {}
    with _bar(steps, disable_tqdm) as bar:
        latents = run.sample(
            GuidedNetwork(model, diffusion_objective, conditions, cfg_scale, interval),
            noise,
            objective=diffusion_objective,
            steps=steps,
            sampler=name,
            init=init_data,
            shift=dist_shift if SAMPLERS.part(name).facts.get("space") == "time" else None,
            on_step=reporter(callback, bar),
            **ranges,
        )
    return decoded(pretransform, latents, padding_mask) if pretransform is not None and decode else latents


def _network(model: Model, extra_args: Mapping[str, Any]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, t: model(x, t.to(x.device, non_blocking=True), **extra_args)


def _bar(steps: int, is_silent: bool) -> Any:
    return tqdm(total=steps, disable=is_silent or None, leave=False, desc="sampling")


__all__ = [
    "DistributionShift", "FluxDistributionShift", "LogSNRShift", "build_schedule", "get_alphas_sigmas", "sample",
    "sample_diffusion", "sample_discrete_euler", "sample_flow_dpmpp", "sample_flow_pingpong", "sample_k", "sample_rf", "sample_rk4",
    "truncated_logistic_normal_rescaled",
]  # fmt: skip
