"""From noise to data: a network with its conditions as samplers call it, and the options of samplers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from stable_audio_tools.families import SAMPLERS
from stable_audio_tools.inference.lengths import AnyDiffusionModel
from stable_audio_tools.models.layers.parameters import dtype_of
from stable_audio_tools.sampling.objectives import objective as find_objective
from stable_audio_tools.sampling.run import PredictPair, default_sampler, sample
from stable_audio_tools.sampling.samplers.base import OnStep, Step
from stable_audio_tools.sampling.shifts import Length, Shift

SAMPLER_KEYS = ("sampler_type", "sigma_min", "sigma_max", "rho", "callback", "disable_tqdm")
RANGE_KEYS = ("sigma_min", "sigma_max", "rho")
EVERYWHERE = (0.0, 1.0)
Callback = Callable[[dict[str, Any]], Any]


@dataclass(frozen=True)
class GuidedNetwork:
    """A conditional network, its conditions and its guidance, as samplers call it.

    Attributes:
        network: The backbone.
        objective: What it predicts.
        conditions: Its keyword arguments: conditions and options.
        cfg_scale: Guidance scale; 1 is none.
        interval: Noise levels in [0, 1] between which guidance acts.
    """

    network: nn.Module | Callable[..., Any]
    objective: str
    conditions: Mapping[str, Any] = field(default_factory=dict)
    cfg_scale: float = 1.0
    interval: Sequence[float] = EVERYWHERE

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """Predict: (x (B, D, L), t (B,)) -> (B, D, L)."""
        return self._call(x, t)

    def pair(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The prediction, and the one without conditions; the same twice where there is no guidance."""
        guided, info = self._call(x, t, return_info=True)
        return guided, info.get("uncond_output", guided)

    def _call(self, x: Tensor, t: Tensor, **more: Any) -> Any:
        scale = self._scale_at(t)
        return self.network(x, t.to(x.device, non_blocking=True), **self.conditions, cfg_scale=scale, **more)

    def _scale_at(self, t: Tensor) -> Any:
        """Guidance at the times (B,) of the items, decided without waiting for a device."""
        low, high = self.interval
        if self.cfg_scale == 1.0 or (low <= 0.0 and high >= 1.0):
            return self.cfg_scale
        level = find_objective(self.objective).alpha_sigma(t)[1]
        if t.device.type == "cpu":
            return self.cfg_scale if low <= float(level[0]) <= high else 1.0
        return torch.where((level >= low) & (level <= high), self.cfg_scale, 1.0)[:, None, None]  # (B, 1, 1)


class SamplerOptions(NamedTuple):
    """``sampler_kwargs`` by whom they are for.

    Attributes:
        name: The sampler.
        given: ``sigma_min``, ``sigma_max`` and ``rho`` as far as they are given.
        own: Options of the sampler itself.
        backbone: The rest.
        interval: Noise levels between which guidance acts.
        callback: Called after every step.
        is_silent: Show no progress.
    """

    name: str
    given: dict[str, Any]
    own: dict[str, Any]
    backbone: dict[str, Any]
    interval: Sequence[float]
    callback: Callback | None
    is_silent: bool

    @classmethod
    def of(cls, model: AnyDiffusionModel, sampler_kwargs: Mapping[str, Any]) -> SamplerOptions:
        """Sort them, with what the model's version of the numbers says about the sampler."""
        name = sampler_kwargs.get("sampler_type") or default_sampler(model.diffusion_objective)
        own = {key: value for key, value in sampler_kwargs.items() if key in own_options(name)}
        if getattr(model, "sampling_version", "0.0.19") != "0.0.19" and name == "dpmpp":
            own.setdefault("floor", 1e-10)
        elsewhere = {*SAMPLER_KEYS, *own, "cfg_interval"}
        return cls(
            name,
            {key: sampler_kwargs[key] for key in RANGE_KEYS if sampler_kwargs.get(key) is not None},
            own,
            {key: value for key, value in sampler_kwargs.items() if key not in elsewhere},
            tuple(sampler_kwargs.get("cfg_interval") or EVERYWHERE),
            sampler_kwargs.get("callback"),
            bool(sampler_kwargs.get("disable_tqdm")),
        )


def own_options(sampler: Any) -> set[str]:
    """Names of a sampler's own options."""
    if not isinstance(sampler, str) or sampler not in SAMPLERS:
        return set()
    return {parameter.name for parameter in SAMPLERS.schema(sampler).parameters}


def sampled(
    model: AnyDiffusionModel,
    predict: Callable[[Tensor, Tensor], Tensor],
    noise: Tensor,
    init: Tensor | None,
    steps: int,
    options: SamplerOptions,
    *,
    shift: Shift | None = None,
    length: Length | None = None,
    predict_pair: PredictPair | None = None,
) -> Tensor:
    """Latents (B, D, L), in the network's data type."""
    dtype = dtype_of(model.model)
    with tqdm(total=steps, disable=options.is_silent or None, leave=False, desc="sampling") as bar:
        return sample(
            predict,
            noise.to(dtype),
            objective=model.diffusion_objective,
            steps=steps,
            sampler=options.name,
            init=init.to(dtype) if init is not None else None,
            shift=shift,
            length=length,
            options=options.own,
            predict_pair=predict_pair,
            on_step=reporter(options.callback, bar),
            **options.given,
        )


def decoded(pretransform: Any, latents: Tensor, content: Tensor | None = None) -> Tensor:
    """Latents (B, D, L) -> audio (B, C, T), silent where ``content`` (B, L) is False. Without a pretransform they are audio already."""
    audio = latents if pretransform is None else pretransform.decode(latents.to(dtype_of(pretransform)))
    if content is None:
        return audio
    ratio = pretransform.downsampling_ratio if pretransform is not None else 1
    heard = content.to(audio.device).repeat_interleave(ratio, dim=1)  # (B, T)
    return audio[..., : heard.shape[1]] * heard[:, None, : audio.shape[-1]]


def reporter(callback: Callback | None, bar: Any) -> OnStep:
    """Show every step on a progress bar and to a callback."""

    def report(step: Step) -> None:
        bar.update()
        if callback is not None:
            sigma = step.t if step.sigma is None else step.sigma
            callback({"i": step.i, "t": step.t, "sigma": sigma, "x": step.x, "denoised": step.denoised})

    return report
