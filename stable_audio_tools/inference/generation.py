"""Generate audio with a diffusion model."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.inference.arguments import check_arguments
from stable_audio_tools.inference.conditions import embedded, encode_init_audio, per_item
from stable_audio_tools.inference.denoising import SAMPLER_KEYS, SamplerOptions, decoded, own_options, sampled
from stable_audio_tools.inference.inversion import InversionParams, invert_audio
from stable_audio_tools.inference.lengths import AnyDiffusionModel, Lengths, Metadata, whole_steps
from stable_audio_tools.inference.numerics import reference_numerics, seeded
from stable_audio_tools.inference.requests import (
    DEFAULT_CFG_SCALE,
    InpaintRequest,
    Request,
    add_kept,
    for_inversion,
    guided,
    sampling_shift,
)
from stable_audio_tools.models.diffusion.uncond import DiffusionModelWrapper
from stable_audio_tools.models.diffusion.wrappers import ConditionedDiffusionModelWrapper
from stable_audio_tools.models.layers.packing import packed_linears
from stable_audio_tools.sampling.run import default_sampler
from stable_audio_tools.sampling.shifts import Shift

logger = logging.getLogger(__name__)


@torch.no_grad()
def generate_diffusion_cond(
    model: ConditionedDiffusionModelWrapper,
    steps: int = 250,
    cfg_scale: float = DEFAULT_CFG_SCALE,
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
    inversion_params: Mapping[str, Any] | InversionParams | None = None,
    adapt_duration_to_conditioning: bool | None = None,
    duration_padding_sec: float = 6.0,
    use_effective_length_for_schedule: bool | None = None,
    mask_padding_attention: bool | None = None,
    apg_scale: float | None = None,
    dist_shift: Shift | Mapping[str, Any] | None = None,
    **sampler_kwargs: Any,
) -> Tensor:
    """Generate audio from conditions. An inpainting model makes everything anew; see `generate_diffusion_cond_inpaint` for the other way.

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
        inversion_params: Start from the noise that ``init_audio`` comes from, instead of mixing noise into it: keys of `InversionParams`.
            For rectified flows; ``init_noise_level`` has no effect then.
        adapt_duration_to_conditioning: Make no more than the longest ``seconds_total`` and ``duration_padding_sec``; None does so if one of
            the next two is on.
        duration_padding_sec: Time after ``seconds_total`` that is made too, in seconds.
        use_effective_length_for_schedule: The shift goes by each item's ``seconds_total``; None is as the model is configured.
        mask_padding_attention: Hide what comes ``duration_padding_sec`` after an item's ``seconds_total`` from the rest, and silence it;
            None is as the model is configured.
        apg_scale: See `sampling.guidance.guide`; None is 0 with the numbers of version 0.0.19, 1 with those of 0.0.20
            (``model.sampling_version``).
        dist_shift: Shift of the sampling times, or its config (``{"type": ..., ...}``). None is the model's ``sampling_dist_shift``, or,
            with the numbers of version 0.0.19, the sampler's own grid (``rk4`` follows the shift of the training times).
        **sampler_kwargs: ``sampler_type``, ``sigma_min``, ``sigma_max``, ``rho`` and options of the sampler itself; ``cfg_interval``, noise
            levels in [0, 1] between which guidance acts; ``callback``, called after every step with a dictionary (``i`` from 0, the
            time ``t`` in [0, 1], the noise level ``sigma`` there, ``x``, ``denoised``); ``disable_tqdm``; anything else goes to the
            backbone (``scale_phi``).

    Returns:
        Audio (B, C, T) of ``sample_size`` rounded down, neither normalised nor clipped; or latents (B, D, L).

    Raises:
        ConfigError: If there are no conditions at all or their number is not ``batch_size``, or a number or an option is wrong.
        DataError: If an item of ``conditioning`` lacks what the model is conditioned on, or a conditioner cannot read it.
        AudioError: If ``init_audio`` is no such pair, or holds NaN.
    """
    return _generate(Request(**locals()))


@torch.no_grad()
def generate_diffusion_cond_inpaint(
    model: ConditionedDiffusionModelWrapper,
    steps: int = 250,
    cfg_scale: float = DEFAULT_CFG_SCALE,
    conditioning: Metadata | None = None,
    conditioning_tensors: Mapping[str, Any] | None = None,
    negative_conditioning: Metadata | None = None,
    negative_conditioning_tensors: Mapping[str, Any] | None = None,
    batch_size: int = 1,
    sample_size: int = 2097152,
    seed: int = -1,
    device: torch.device | str | None = None,
    init_audio: tuple[int, Tensor] | None = None,
    init_noise_level: float = 1.0,
    inpaint_audio: tuple[int, Tensor] | None = None,
    inpaint_mask: Tensor | None = None,
    return_latents: bool = False,
    inpaint_mask_start_seconds: float | None = None,
    inpaint_mask_end_seconds: float | None = None,
    adapt_duration_to_conditioning: bool | None = None,
    duration_padding_sec: float = 6.0,
    use_effective_length_for_schedule: bool | None = None,
    mask_padding_attention: bool | None = None,
    apg_scale: float | None = None,
    dist_shift: Shift | Mapping[str, Any] | None = None,
    sample_rate: int | None = None,
    **sampler_kwargs: Any,
) -> Tensor:
    """Fill gaps of given audio; without audio, generate from conditions.

    Seeds, numerical settings and all arguments that are not listed here are as for `generate_diffusion_cond`.

    Args:
        model: A conditional diffusion model with the conditions ``inpaint_mask`` and ``inpaint_masked_input``.
        steps: Sampler steps.
        cfg_scale: Guidance scale; 1 is none.
        conditioning: One metadata dictionary per item, or one for all.
        conditioning_tensors: Already embedded conditions; instead of ``conditioning``.
        negative_conditioning: What guidance pushes away from.
        negative_conditioning_tensors: The same, embedded.
        batch_size: Number of clips B.
        sample_size: Length of each clip, in audio samples; rounded down to the model's step.
        seed: -1 draws one.
        device: Where to run; None is where the model is.
        init_audio: (sample rate, audio (C, T)) to vary.
        init_noise_level: How much noise is mixed into it.
        inpaint_audio: (sample rate, audio (C, T)) to keep parts of.
        inpaint_mask: (T,), (1, T) or (B, T) at the model's rate: 1 is kept, 0 is made anew. None makes everything anew.
        return_latents: Do not decode.
        inpaint_mask_start_seconds: Instead of a mask, where to begin making anew, in seconds; with the next one.
        inpaint_mask_end_seconds: Where to stop.
        adapt_duration_to_conditioning: See `generate_diffusion_cond`.
        duration_padding_sec: See `generate_diffusion_cond`.
        use_effective_length_for_schedule: See `generate_diffusion_cond`.
        mask_padding_attention: See `generate_diffusion_cond`. Nothing after the longest ``seconds_total`` is kept then.
        apg_scale: See `generate_diffusion_cond`.
        dist_shift: See `generate_diffusion_cond`.
        sample_rate: Has no effect.
        **sampler_kwargs: See `generate_diffusion_cond`.

    Returns:
        Audio (B, C, T), or latents (B, D, L). The kept parts are the network's rendering of them, not copies.

    Raises:
        ConfigError: If the mask has another shape, or for the reasons of `generate_diffusion_cond`.
        DataError: For the reasons of `generate_diffusion_cond`, like the next one.
        AudioError: If ``init_audio`` or ``inpaint_audio`` is no pair of rate and samples, or holds NaN.
    """
    return _generate(InpaintRequest(**locals()))


@torch.no_grad()
def generate_diffusion_uncond(
    model: DiffusionModelWrapper,
    steps: int = 250,
    batch_size: int = 1,
    sample_size: int = 2097152,
    seed: int = -1,
    device: torch.device | str | None = None,
    init_audio: tuple[int, Tensor] | None = None,
    init_noise_level: float = 1.0,
    return_latents: bool = False,
    **sampler_kwargs: Any,
) -> Tensor:
    """Generate audio from nothing but noise. Seeds and numerical settings are treated as by `generate_diffusion_cond`.

    Args:
        model: An unconditional diffusion model.
        steps: Sampler steps.
        batch_size: Number of clips B.
        sample_size: Length of each clip, in audio samples; rounded down to the model's step.
        seed: -1 draws one.
        device: Where to run; None is where the model is.
        init_audio: (sample rate, audio (C, T)) to vary.
        init_noise_level: How much noise is mixed into it: ``sigma_max`` of the sampler.
        return_latents: Do not decode.
        **sampler_kwargs: ``sampler_type``, ``sigma_min``, ``sigma_max``, ``rho``, ``callback`` and ``disable_tqdm`` as for
            `generate_diffusion_cond`; anything else goes to the backbone.

    Returns:
        Audio (B, C, T) of ``sample_size`` rounded down, neither normalised nor clipped; or latents (B, D, L).

    Raises:
        ConfigError: If a sampler option is wrong, or ``sample_size`` is too small.
        AudioError: If ``init_audio`` is no pair of rate and samples, or holds NaN.
    """
    _check(model, steps, batch_size, sample_size, seed, sampler_kwargs, init_audio=init_audio)
    device = _device(model, device)
    samples = whole_steps(model, sample_size)
    with reference_numerics(), seeded(_seed(seed)):
        noise = torch.randn([batch_size, model.io_channels, samples // model.downsampling_ratio], device=device)
        options = SamplerOptions.of(model, _with_start(sampler_kwargs, init_audio, init_noise_level))
        init = _init(model, init_audio, samples, batch_size, device)

        def predict(x: Tensor, t: Tensor) -> Tensor:
            return model.model(x, t.to(x.device, non_blocking=True), **options.backbone)

        with packed_linears(model.model, steps, rows=batch_size * noise.shape[-1]):
            latents = sampled(model, predict, noise, init, steps, options)
        return latents if return_latents else decoded(model.pretransform, latents)


def _generate(request: Request) -> Tensor:
    """The two conditional functions: from noise and conditions to audio."""
    model, batch_size = request.model, request.batch_size
    _check(model, request.steps, batch_size, request.sample_size, request.seed, request.sampler_kwargs, **request.audio())
    if not math.isfinite(request.cfg_scale):
        raise ConfigError(f"cfg_scale must be a finite number, got {request.cfg_scale}")
    device = _device(model, request.device)
    conditioning = per_item(request.conditioning, batch_size, "conditioning")
    negative_conditioning = per_item(request.negative_conditioning, batch_size, "negative_conditioning")
    lengths = Lengths.of(
        model, conditioning, request.sample_size, request.adapt_duration_to_conditioning, request.duration_padding_sec,
        request.use_effective_length_for_schedule, request.mask_padding_attention,
    )  # fmt: skip
    keep = request.keep(lengths, conditioning)
    inversion = InversionParams.of(request.inversion_params)
    if inversion is not None:
        inversion.check(model.diffusion_objective, request.init_audio)
    start = request.init_noise_level if inversion is None else inversion.inversion_sigma_max
    with reference_numerics(), seeded(_seed(request.seed)):
        # The order of these lines is the order in which random numbers are drawn.
        noise = torch.randn([batch_size, model.io_channels, lengths.frames], device=device)
        conditions = [embedded(model, conditioning, request.conditioning_tensors, device)]
        if negative_conditioning is not None or request.negative_conditioning_tensors is not None:
            conditions.append(embedded(model, negative_conditioning, request.negative_conditioning_tensors, device))
        options = SamplerOptions.of(model, _with_start(request.sampler_kwargs, request.init_audio, start))
        init = _init(model, request.init_audio, lengths.samples, batch_size, device)
        add_kept(model, conditions, noise, keep, request.kept(lengths, device))
        inputs = model.get_conditioning_inputs(conditions[0])
        if len(conditions) > 1:
            inputs |= model.get_conditioning_inputs(conditions[1], negative=True)
        network = guided(request, inputs, lengths, options)
        shift = sampling_shift(model, request.dist_shift, options.name)
        length = lengths.schedule if shift is not None else None
        with packed_linears(model.model, request.steps, rows=2 * batch_size * lengths.frames):
            if inversion is not None and init is not None:
                back = for_inversion(request, inversion, inputs, lengths, options, device)
                noise, init = invert_audio(back, init, noise, inversion, disable_tqdm=options.is_silent), None
            latents = sampled(model, network, noise, init, request.steps, options, shift=shift, length=length, predict_pair=network.pair)
        return latents if request.return_latents else decoded(model.pretransform, latents, lengths.content)


def _check(
    model: AnyDiffusionModel, steps: Any, batch_size: Any, sample_size: Any, seed: Any, options: Mapping[str, Any], **audio: Any
) -> None:
    own = own_options(options.get("sampler_type") or default_sampler(model.diffusion_objective))
    check_arguments(
        steps=steps, batch_size=batch_size, sample_size=sample_size, seed=seed, audio=audio,
        sampler_kwargs=options, known=(*SAMPLER_KEYS, *own), backbone=model.model,
    )  # fmt: skip


def _device(model: AnyDiffusionModel, given: torch.device | str | None) -> torch.device:
    if given is None:
        return next(model.parameters()).device
    try:
        return torch.device(given)
    except RuntimeError as error:
        raise ConfigError(f"device must be the name of a device, such as 'cpu' or 'cuda:0', got {given!r}") from error


def _with_start(options: Mapping[str, Any], init_audio: tuple[int, Tensor] | None, noise_level: float) -> dict[str, Any]:
    """The noise level of audio to vary is the sampler's ``sigma_max``."""
    return dict(options) if init_audio is None else {**options, "sigma_max": noise_level}


def _init(model: AnyDiffusionModel, audio: tuple[int, Tensor] | None, samples: int, batch_size: int, device: torch.device) -> Tensor | None:
    """What to start from, (B, D, L)."""
    return None if audio is None else encode_init_audio(model, audio, samples, device).repeat(batch_size, 1, 1)


def _seed(seed: int) -> int:
    if seed == -1:
        seed = int(np.random.randint(0, 2**32 - 1, dtype=np.uint32))
        logger.info("seed %d", seed)
    if not 0 <= seed < 2**64:
        raise ConfigError(f"seed must lie between 0 and {2**64 - 1}, or be -1 to draw one, got {seed}")
    return seed


__all__ = [
    "AnyDiffusionModel", "encode_init_audio", "generate_diffusion_cond", "generate_diffusion_cond_inpaint", "generate_diffusion_uncond",
]  # fmt: skip
