"""Generate audio with a diffusion model."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from stable_audio_tools.audio import prepare_audio
from stable_audio_tools.errors import ConfigError
from stable_audio_tools.inference.arguments import check_arguments
from stable_audio_tools.inference.numerics import reference_numerics, seeded
from stable_audio_tools.models.diffusion.wrappers import ConditionedDiffusionModelWrapper
from stable_audio_tools.models.layers.parameters import dtype_of
from stable_audio_tools.sampling.run import sample
from stable_audio_tools.sampling.samplers.base import Step

logger = logging.getLogger(__name__)
Metadata = Sequence[Mapping[str, Any]]
SAMPLER_KEYS = ("sampler_type", "sigma_min", "sigma_max", "rho", "callback", "disable_tqdm")


@torch.no_grad()
def generate_diffusion_cond(
    model: ConditionedDiffusionModelWrapper,
    steps: int = 250,
    cfg_scale: float = 6.0,
    conditioning: Metadata | None = None,
    conditioning_tensors: Mapping[str, Any] | None = None,
    negative_conditioning: Metadata | None = None,
    negative_conditioning_tensors: Mapping[str, Any] | None = None,
    batch_size: int = 1,
    sample_size: int = 2097152,
    sample_rate: int | None = None,
    seed: int = -1,
    device: torch.device | str | None = None,
    init_audio: tuple[int, Tensor] | None = None,
    init_noise_level: float = 1.0,
    return_latents: bool = False,
    **sampler_kwargs: Any,
) -> Tensor:
    """Generate audio from conditions.

    The same seed gives the same audio on the same kind of device: noise is drawn on ``device`` right after seeding. The global random
    streams and numerical settings of torch are as before afterwards.

    Args:
        model: A conditional diffusion model.
        steps: Sampler steps.
        cfg_scale: Guidance scale; 1 is none.
        conditioning: One metadata dictionary per item, or one for all.
        conditioning_tensors: Already embedded conditions, id -> (embedding, mask); instead of ``conditioning``.
        negative_conditioning: What guidance pushes away from, like ``conditioning``.
        negative_conditioning_tensors: The same, embedded.
        batch_size: Number of clips B.
        sample_size: Length of each clip, in audio samples; rounded down to the model's step.
        sample_rate: Has no effect: audio is made at the model's rate. Accepted since published scripts pass it.
        seed: -1 draws one.
        device: Where to run; None is where the model is.
        init_audio: (sample rate, audio (C, T)) to vary.
        init_noise_level: How much noise is mixed into it: ``sigma_max`` of the sampler.
        return_latents: Do not decode.
        **sampler_kwargs: ``sampler_type``, ``sigma_min``, ``sigma_max``, ``rho``; ``callback``, called after every step with a dictionary
            (``i``, ``t``, ``sigma``, ``x``, ``denoised``); ``disable_tqdm``; anything else goes to the backbone (``scale_phi``,
            ``cfg_interval``).

    Returns:
        Audio (B, C, T) of ``sample_size`` rounded down, neither normalised nor clipped; or latents (B, D, L).

    Raises:
        ConfigError: If conditions are missing or their number is not ``batch_size``, or a number or an option is wrong.
        AudioError: If ``init_audio`` is no such pair, or holds NaN.
    """
    check_arguments(
        steps=steps, batch_size=batch_size, sample_size=sample_size, seed=seed, audio=init_audio,
        sampler_kwargs=sampler_kwargs, known=SAMPLER_KEYS, backbone=model.model,
    )  # fmt: skip
    device = torch.device(device) if device is not None else next(model.parameters()).device
    num_samples = sample_size - sample_size % model.min_input_length
    if num_samples < 1:
        raise ConfigError(f"sample_size must be at least {model.min_input_length} samples for this model, got {sample_size}")
    if seed == -1:
        seed = int(np.random.randint(0, 2**32 - 1, dtype=np.uint32))
        logger.info("seed %d", seed)
    if not 0 <= seed < 2**64:
        raise ConfigError(f"seed must lie between 0 and {2**64 - 1}, or be -1 to draw one, got {seed}")
    if not math.isfinite(cfg_scale):
        raise ConfigError(f"cfg_scale must be a finite number, got {cfg_scale}")
    conditioning = _per_item(conditioning, batch_size, "conditioning")
    negative_conditioning = _per_item(negative_conditioning, batch_size, "negative_conditioning")

    with reference_numerics(), seeded(seed):
        noise = torch.randn([batch_size, model.io_channels, num_samples // model.downsampling_ratio], device=device)
        inputs = _condition(model, conditioning, conditioning_tensors, device)
        if negative_conditioning is not None or negative_conditioning_tensors is not None:
            inputs |= _condition(model, negative_conditioning, negative_conditioning_tensors, device, negative=True)
        init = None
        if init_audio is not None:
            init = encode_init_audio(model, init_audio, num_samples, device).repeat(batch_size, 1, 1)
            sampler_kwargs["sigma_max"] = init_noise_level
        dtype = dtype_of(model.model)
        inputs = {key: value.to(dtype) if value is not None else None for key, value in inputs.items()}
        backbone_kwargs = {key: value for key, value in sampler_kwargs.items() if key not in SAMPLER_KEYS}

        def predict(x: Tensor, t: Tensor) -> Tensor:
            return model.model(x, t, **inputs, cfg_scale=cfg_scale, batch_cfg=True, rescale_cfg=True, **backbone_kwargs)

        with tqdm(total=steps, disable=sampler_kwargs.get("disable_tqdm") or None, leave=False, desc="sampling") as bar:
            latents = sample(
                predict,
                noise.to(dtype),
                objective=model.diffusion_objective,
                steps=steps,
                sampler=sampler_kwargs.get("sampler_type"),
                init=init.to(dtype) if init is not None else None,
                on_step=_reporter(sampler_kwargs.get("callback"), bar),
                **{key: sampler_kwargs[key] for key in ("sigma_min", "sigma_max", "rho") if sampler_kwargs.get(key) is not None},
            )
        if model.pretransform is None or return_latents:
            return latents
        return model.pretransform.decode(latents.to(dtype_of(model.pretransform)))


def encode_init_audio(model: ConditionedDiffusionModelWrapper, audio: tuple[int, Tensor], sample_size: int, device: torch.device) -> Tensor:
    """Audio of any rate and channel count -> what the model denoises, (1, D, L).

    Args:
        model: The model.
        audio: (sample rate in Hz, samples (C, T))
        sample_size: Cut or pad to this many samples, at the model's rate.
        device: Where to put it.
    """
    rate, samples = audio
    channels = model.pretransform.io_channels if model.pretransform is not None else model.io_channels
    prepared = prepare_audio(
        samples, in_sr=rate, target_sr=model.sample_rate, target_length=sample_size, target_channels=channels, device=device
    )
    return prepared if model.pretransform is None else model.pretransform.encode(prepared.to(dtype_of(model.pretransform)))


def _per_item(conditioning: Metadata | Mapping[str, Any] | None, batch_size: int, name: str) -> Metadata | None:
    if conditioning is None:
        return None
    items = [conditioning] if isinstance(conditioning, Mapping) else list(conditioning)
    if len(items) == 1:
        items = items * batch_size
    if len(items) != batch_size:
        raise ConfigError(f"{name} has {len(items)} dictionaries, but batch_size is {batch_size}; give one for all, or one per clip")
    return items


def _condition(
    model: ConditionedDiffusionModelWrapper,
    metadata: Metadata | None,
    tensors: Mapping[str, Any] | None,
    device: torch.device,
    *,
    negative: bool = False,
) -> dict[str, Tensor | None]:
    if tensors is None:
        if metadata is None:
            raise ConfigError("nothing to generate from: give conditioning (a list of dictionaries) or conditioning_tensors")
        if model.conditioner is None:
            raise ConfigError("this model has no conditioner: give conditioning_tensors instead of conditioning")
        tensors = model.conditioner(metadata, device)
    assert tensors is not None
    return model.get_conditioning_inputs(tensors, negative=negative)


def _reporter(callback: Callable[[dict[str, Any]], Any] | None, bar: Any) -> Callable[[Step], None]:
    def report(step: Step) -> None:
        bar.update()
        if callback is not None:
            callback({"i": step.i, "t": step.t, "sigma": step.t, "x": step.x, "denoised": step.denoised})

    return report
