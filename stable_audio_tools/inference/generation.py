"""Generate audio with a diffusion model."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from stable_audio_tools.audio import prepare_audio
from stable_audio_tools.config.model import shift_of
from stable_audio_tools.errors import ConfigError
from stable_audio_tools.families import SAMPLERS, SHIFTS
from stable_audio_tools.inference.arguments import check_arguments, takes_option
from stable_audio_tools.inference.numerics import reference_numerics, seeded
from stable_audio_tools.models.diffusion.uncond import DiffusionModelWrapper
from stable_audio_tools.models.diffusion.wrappers import ConditionedDiffusionModelWrapper, seconds_of
from stable_audio_tools.models.layers.parameters import dtype_of
from stable_audio_tools.sampling.objectives import objective as find_objective
from stable_audio_tools.sampling.run import default_sampler, sample
from stable_audio_tools.sampling.samplers.base import Step
from stable_audio_tools.sampling.shifts import Length, Shift

logger = logging.getLogger(__name__)
Metadata = Sequence[Mapping[str, Any]]
AnyDiffusionModel = ConditionedDiffusionModelWrapper | DiffusionModelWrapper
SAMPLER_KEYS = ("sampler_type", "sigma_min", "sigma_max", "rho", "callback", "disable_tqdm")
DEFAULT_CFG_SCALE = 6.0
RANGE_KEYS = ("sigma_min", "sigma_max", "rho")


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
            levels in [0, 1] between which guidance acts; ``callback``, called after every step with a dictionary (``i``, ``t``,
            ``sigma``, ``x``, ``denoised``); ``disable_tqdm``; anything else goes to the backbone (``scale_phi``).

    Returns:
        Audio (B, C, T) of ``sample_size`` rounded down, neither normalised nor clipped; or latents (B, D, L).

    Raises:
        ConfigError: If conditions are missing or their number is not ``batch_size``, or a number or an option is wrong.
        AudioError: If ``init_audio`` is no such pair, or holds NaN.
    """
    _check(model, steps, batch_size, sample_size, seed, sampler_kwargs, init_audio=init_audio)
    device = torch.device(device) if device is not None else next(model.parameters()).device
    conditioning = _per_item(conditioning, batch_size, "conditioning")
    negative_conditioning = _per_item(negative_conditioning, batch_size, "negative_conditioning")
    lengths = _Lengths.of(
        model, conditioning, sample_size, adapt_duration_to_conditioning, duration_padding_sec, use_effective_length_for_schedule,
        mask_padding_attention,
    )  # fmt: skip
    guidance = _guidance(cfg_scale, apg_scale)
    with reference_numerics(), seeded(_seed(seed)):
        noise = torch.randn([batch_size, model.io_channels, lengths.frames], device=device)
        tensors = _with_nothing_kept(model, _embedded(model, conditioning, conditioning_tensors, device), noise)
        inputs = model.get_conditioning_inputs(tensors)
        if negative_conditioning is not None or negative_conditioning_tensors is not None:
            negative = _embedded(model, negative_conditioning, negative_conditioning_tensors, device)
            negative = _with_nothing_kept(model, negative, noise)
            inputs |= model.get_conditioning_inputs(negative, negative=True)
        init = _init(model, init_audio, init_noise_level, lengths.samples, batch_size, device, sampler_kwargs)
        return _finish(model, noise, init, inputs, guidance, lengths, steps, dist_shift, return_latents, sampler_kwargs)


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
    """
    _check(model, steps, batch_size, sample_size, seed, sampler_kwargs, init_audio=init_audio, inpaint_audio=inpaint_audio)
    device = torch.device(device) if device is not None else next(model.parameters()).device
    conditioning = _per_item(conditioning, batch_size, "conditioning")
    negative_conditioning = _per_item(negative_conditioning, batch_size, "negative_conditioning")
    lengths = _Lengths.of(
        model, conditioning, sample_size, adapt_duration_to_conditioning, duration_padding_sec, use_effective_length_for_schedule,
        mask_padding_attention,
    )  # fmt: skip
    if inpaint_mask is None:
        inpaint_mask = _span_mask(inpaint_mask_start_seconds, inpaint_mask_end_seconds, lengths.samples, model.sample_rate)
    keep = _latent_mask(inpaint_mask, batch_size, lengths, conditioning, model.sample_rate)
    guidance = _guidance(cfg_scale, apg_scale)
    with reference_numerics(), seeded(_seed(seed)):
        noise = torch.randn([batch_size, model.io_channels, lengths.frames], device=device)
        tensors = dict(_embedded(model, conditioning, conditioning_tensors, device))
        negative: dict[str, Any] | None = None
        if negative_conditioning is not None or negative_conditioning_tensors is not None:
            negative = dict(_embedded(model, negative_conditioning, negative_conditioning_tensors, device))
        init = _init(model, init_audio, init_noise_level, lengths.samples, batch_size, device, sampler_kwargs)
        keep = keep.to(device)
        masked = torch.zeros(batch_size, model.io_channels, lengths.frames, device=device)
        if inpaint_audio is not None:
            masked = encode_init_audio(model, inpaint_audio, lengths.samples, device).repeat(batch_size, 1, 1) * keep
        for conditions in (tensors, *([negative] if negative is not None else [])):
            conditions |= {"inpaint_mask": [keep], "inpaint_masked_input": [masked]}
        inputs = model.get_conditioning_inputs(tensors)
        if negative is not None:
            inputs |= model.get_conditioning_inputs(negative, negative=True)
        return _finish(model, noise, init, inputs, guidance, lengths, steps, dist_shift, return_latents, sampler_kwargs)


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
    """
    _check(model, steps, batch_size, sample_size, seed, sampler_kwargs, init_audio=init_audio)
    device = torch.device(device) if device is not None else next(model.parameters()).device
    samples = _whole_steps(model, sample_size)
    with reference_numerics(), seeded(_seed(seed)):
        noise = torch.randn([batch_size, model.io_channels, samples // model.downsampling_ratio], device=device)
        init = _init(model, init_audio, init_noise_level, samples, batch_size, device, sampler_kwargs)
        options = _SamplerOptions.of(model, sampler_kwargs)

        def predict(x: Tensor, t: Tensor) -> Tensor:
            return model.model(x, t.to(x.device, non_blocking=True), **options.backbone)

        return _decoded(model, _sampled(model, predict, noise, init, steps, options), return_latents)


def _check(
    model: AnyDiffusionModel, steps: Any, batch_size: Any, sample_size: Any, seed: Any, options: Mapping[str, Any], **audio: Any
) -> None:
    own = _own_options(options.get("sampler_type") or default_sampler(model.diffusion_objective))
    check_arguments(
        steps=steps, batch_size=batch_size, sample_size=sample_size, seed=seed, audio=audio,
        sampler_kwargs=options, known=(*SAMPLER_KEYS, *own), backbone=model.model,
    )  # fmt: skip


def _own_options(sampler: Any) -> set[str]:
    """Names of a sampler's own options."""
    return (
        {parameter.name for parameter in SAMPLERS.schema(sampler).parameters} if isinstance(sampler, str) and sampler in SAMPLERS else set()
    )


# ---- lengths ---------------------------------------------------------------------------------------------------------------------


class _Lengths(NamedTuple):
    """How much is made, and how much of it each item means.

    Attributes:
        samples: Audio samples.
        frames: Latent frames L.
        ratio: Samples per frame.
        schedule: What shifts go by: latent frames of each item, one number if they are the same, or None for L.
        content: (B, L), False at padding that is hidden, or None.
    """

    samples: int
    frames: int
    ratio: int
    schedule: Length | None
    content: Tensor | None

    @classmethod
    def of(
        cls,
        model: ConditionedDiffusionModelWrapper,
        conditioning: Metadata | None,
        sample_size: int,
        adapts: bool | None,
        headroom: float,
        by_item: bool | None,
        hides: bool | None,
    ) -> _Lengths:
        by_item = model.use_effective_length_for_schedule if by_item is None else by_item
        hides = model.mask_padding_attention if hides is None else hides
        effective = model.effective_lengths(conditioning) if adapts or by_item or hides else None
        if effective is None and (adapts or by_item or hides):
            logger.warning("not every item has a 'seconds_total': all are treated as %d samples long", sample_size)
        if effective is None:
            adapts = by_item = hides = False
        ratio = model.downsampling_ratio
        if adapts or (adapts is None and (by_item or hides)):
            assert conditioning is not None
            step = model.min_input_length * _chunk_frames(model)
            wanted = int((max(seconds_of(conditioning)) + headroom) * model.sample_rate)
            sample_size = min(-(-wanted // step) * step, sample_size)
        samples = _whole_steps(model, sample_size)
        frames = samples // ratio
        content: Tensor | None = None
        if hides:
            assert effective is not None
            ends = torch.tensor(effective) + int(headroom * model.sample_rate / ratio)
            content = torch.arange(frames)[None] < ends[:, None]  # (B, L)
        schedule: Length | None = None
        if by_item and effective:
            schedule = effective[0] if len(set(effective)) == 1 else torch.tensor(effective)
        return cls(samples, frames, ratio, schedule, content)


def _whole_steps(model: AnyDiffusionModel, sample_size: int) -> int:
    """``sample_size`` rounded down to the model's step."""
    samples = sample_size - sample_size % model.min_input_length
    if samples < 1:
        raise ConfigError(f"sample_size must be at least {model.min_input_length} samples for this model, got {sample_size}")
    return samples


def _chunk_frames(model: ConditionedDiffusionModelWrapper) -> int:
    """Latent frames per chunk of an autoencoder that codes in chunks of its own, else 1."""
    encoder = getattr(getattr(model.pretransform, "model", None), "encoder", None)
    return getattr(encoder, "alignment", 1)


def _span_mask(start: float | None, end: float | None, samples: int, sample_rate: int) -> Tensor | None:
    """A mask (1, T) that keeps all but the span between two times in seconds; None if there are none."""
    if start is None and end is None:
        return None
    if start is None or end is None or not 0 <= start < end:
        raise ConfigError(
            "inpaint_mask_start_seconds and inpaint_mask_end_seconds say together what is made anew: 0 <= start < end, "
            f"got {start} and {end}"
        )
    mask = torch.ones(1, samples)
    mask[:, int(start * sample_rate) : int(end * sample_rate)] = 0
    return mask


def _latent_mask(mask: Tensor | None, batch_size: int, lengths: _Lengths, conditioning: Metadata | None, sample_rate: int) -> Tensor:
    """Which samples are kept, (T,), (1, T) or (B, T) -> which latent frames are, (B, 1, L)."""
    if mask is None:
        return torch.zeros(batch_size, 1, lengths.frames)
    mask = mask.detach().float().cpu()
    mask = mask.reshape(1, -1) if mask.dim() == 1 else mask
    if mask.dim() != 2 or mask.shape[0] not in (1, batch_size) or mask.shape[1] == 0:
        raise ConfigError(f"inpaint_mask must be (T,), (1, T) or ({batch_size}, T), got {tuple(mask.shape)}")
    if mask.shape[1] < lengths.samples:
        logger.warning("inpaint_mask has %d steps for %d samples: it is stretched", mask.shape[1], lengths.samples)
    mask = mask[:, : lengths.samples]
    if lengths.content is not None and conditioning is not None:
        mask = mask.clone()
        mask[:, int(max(seconds_of(conditioning)) * sample_rate) :] = 0
    return F.interpolate(mask[:, None], lengths.frames, mode="nearest").expand(batch_size, -1, -1)  # (B, 1, L)


# ---- conditions ------------------------------------------------------------------------------------------------------------------


def encode_init_audio(model: AnyDiffusionModel, audio: tuple[int, Tensor], sample_size: int, device: torch.device) -> Tensor:
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


def _init(
    model: AnyDiffusionModel,
    audio: tuple[int, Tensor] | None,
    noise_level: float,
    samples: int,
    batch_size: int,
    device: torch.device,
    sampler_kwargs: dict[str, Any],
) -> Tensor | None:
    """What to start from, (B, D, L); its noise level becomes the sampler's ``sigma_max``."""
    if audio is None:
        return None
    sampler_kwargs["sigma_max"] = noise_level
    return encode_init_audio(model, audio, samples, device).repeat(batch_size, 1, 1)


def _seed(seed: int) -> int:
    if seed == -1:
        seed = int(np.random.randint(0, 2**32 - 1, dtype=np.uint32))
        logger.info("seed %d", seed)
    if not 0 <= seed < 2**64:
        raise ConfigError(f"seed must lie between 0 and {2**64 - 1}, or be -1 to draw one, got {seed}")
    return seed


def _guidance(cfg_scale: float, apg_scale: float | None) -> dict[str, Any]:
    if not math.isfinite(cfg_scale):
        raise ConfigError(f"cfg_scale must be a finite number, got {cfg_scale}")
    return {"cfg_scale": cfg_scale, "apg_scale": apg_scale}


def _per_item(conditioning: Metadata | Mapping[str, Any] | None, batch_size: int, name: str) -> Metadata | None:
    if conditioning is None:
        return None
    items = [conditioning] if isinstance(conditioning, Mapping) else list(conditioning)
    if len(items) == 1:
        items = items * batch_size
    if len(items) != batch_size:
        raise ConfigError(f"{name} has {len(items)} dictionaries, but batch_size is {batch_size}; give one for all, or one per clip")
    return items


def _embedded(
    model: ConditionedDiffusionModelWrapper, metadata: Metadata | None, tensors: Mapping[str, Any] | None, device: torch.device
) -> Mapping[str, Any]:
    if tensors is not None:
        return tensors
    if metadata is None:
        raise ConfigError("nothing to generate from: give conditioning (a list of dictionaries) or conditioning_tensors")
    if model.conditioner is None:
        raise ConfigError("this model has no conditioner: give conditioning_tensors instead of conditioning")
    return model.conditioner(metadata, device)


def _with_nothing_kept(model: ConditionedDiffusionModelWrapper, tensors: Mapping[str, Any], noise: Tensor) -> Mapping[str, Any]:
    """Conditions, and for an inpainting model, if they do not say what is kept, that nothing is."""
    if "inpaint_mask" in tensors or "inpaint_mask" not in [*model.input_concat_ids, *model.local_add_cond_ids]:
        return tensors
    return {**tensors, "inpaint_mask": [torch.zeros_like(noise[:, :1])], "inpaint_masked_input": [torch.zeros_like(noise)]}


# ---- sampling --------------------------------------------------------------------------------------------------------------------


class _SamplerOptions(NamedTuple):
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
    callback: Callable[[dict[str, Any]], Any] | None
    is_silent: bool

    @classmethod
    def of(cls, model: AnyDiffusionModel, sampler_kwargs: Mapping[str, Any]) -> _SamplerOptions:
        name = sampler_kwargs.get("sampler_type") or default_sampler(model.diffusion_objective)
        own = {key: value for key, value in sampler_kwargs.items() if key in _own_options(name)}
        if getattr(model, "sampling_version", "0.0.19") != "0.0.19" and name == "dpmpp":
            own.setdefault("floor", 1e-10)
        elsewhere = {*SAMPLER_KEYS, *own, "cfg_interval"}
        return cls(
            name,
            {key: sampler_kwargs[key] for key in RANGE_KEYS if sampler_kwargs.get(key) is not None},
            own,
            {key: value for key, value in sampler_kwargs.items() if key not in elsewhere},
            tuple(sampler_kwargs.get("cfg_interval") or (0.0, 1.0)),
            sampler_kwargs.get("callback"),
            bool(sampler_kwargs.get("disable_tqdm")),
        )


def _finish(
    model: ConditionedDiffusionModelWrapper,
    noise: Tensor,
    init: Tensor | None,
    inputs: dict[str, Any],
    guidance: Mapping[str, Any],
    lengths: _Lengths,
    steps: int,
    dist_shift: Shift | Mapping[str, Any] | None,
    return_latents: bool,
    sampler_kwargs: Mapping[str, Any],
) -> Tensor:
    """From noise and conditions to audio."""
    options = _SamplerOptions.of(model, sampler_kwargs)
    is_old = model.sampling_version == "0.0.19"
    dtype, device = dtype_of(model.model), noise.device
    inputs = _cast(inputs, dtype)
    if not is_old:
        inputs.pop("negative_cross_attn_mask", None)
    if hasattr(model.model, "prepare"):
        inputs = model.model.prepare(inputs)  # type: ignore[operator]
    if lengths.content is not None:
        inputs["padding_mask"] = lengths.content.to(device)
    cfg_scale, apg_scale = guidance["cfg_scale"], guidance["apg_scale"]
    if apg_scale is None:
        apg_scale = 0.0 if is_old or not takes_option(model.model, "apg_scale") else 1.0
    if apg_scale:
        inputs["apg_scale"] = apg_scale
    if cfg_scale not in (1.0, DEFAULT_CFG_SCALE) and not (model.cross_attn_cond_ids or model.prepend_cond_ids):
        logger.warning("cfg_scale %g has no effect: guidance needs conditions for cross-attention, or prepended ones", cfg_scale)
    mixing = find_objective(model.diffusion_objective)
    low, high = options.interval

    def scale_at(t: Tensor) -> Any:
        """Guidance at the times (B,) of the items, decided without waiting for a device."""
        if cfg_scale == 1.0 or (low <= 0.0 and high >= 1.0):
            return cfg_scale
        level = mixing.alpha_sigma(t)[1]
        if t.device.type == "cpu":
            return cfg_scale if low <= float(level[0]) <= high else 1.0
        return torch.where((level >= low) & (level <= high), cfg_scale, 1.0)[:, None, None]  # (B, 1, 1)

    def call(x: Tensor, t: Tensor, **more: Any) -> Any:
        scale = scale_at(t)
        t = t.to(x.device, non_blocking=True)
        return model.model(x, t, **inputs, cfg_scale=scale, batch_cfg=True, rescale_cfg=True, **options.backbone, **more)

    def call_pair(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        guided, info = call(x, t, return_info=True)
        return guided, info.get("uncond_output", guided)

    shift = _shift(model, dist_shift, options.name)
    length = lengths.schedule if shift is not None else None
    latents = _sampled(model, call, noise, init, steps, options, shift=shift, length=length, predict_pair=call_pair)
    audio = _decoded(model, latents, return_latents)
    if lengths.content is None or return_latents:
        return audio
    heard = lengths.content.repeat_interleave(lengths.ratio, dim=1).to(audio.device)  # (B, T)
    return audio[..., : heard.shape[1]] * heard[:, None, : audio.shape[-1]]


def _cast(inputs: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """Conditions in the network's data type; those in dictionaries too."""
    return {
        key: _cast(value, dtype) if isinstance(value, Mapping) else value.to(dtype) if value is not None else None
        for key, value in inputs.items()
    }


def _shift(model: ConditionedDiffusionModelWrapper, given: Shift | Mapping[str, Any] | None, sampler: str) -> Shift | None:
    """The shift of the sampling times, as documented in `generate_diffusion_cond`."""
    if given is not None:
        return given if isinstance(given, Shift) else SHIFTS.build(*shift_of(given))
    facts = SAMPLERS.part(sampler).facts if sampler in SAMPLERS else {}
    if model.sampling_dist_shift is not None and facts.get("space") == "time":
        return model.sampling_dist_shift
    return model.dist_shift if sampler == "rk4" and model.sampling_version == "0.0.19" else None


def _sampled(
    model: AnyDiffusionModel,
    predict: Callable[[Tensor, Tensor], Tensor],
    noise: Tensor,
    init: Tensor | None,
    steps: int,
    options: _SamplerOptions,
    *,
    shift: Shift | None = None,
    length: Length | None = None,
    predict_pair: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None,
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
            on_step=_reporter(options.callback, bar),
            **options.given,
        )


def _decoded(model: AnyDiffusionModel, latents: Tensor, return_latents: bool) -> Tensor:
    if model.pretransform is None or return_latents:
        return latents
    return model.pretransform.decode(latents.to(dtype_of(model.pretransform)))


def _reporter(callback: Callable[[dict[str, Any]], Any] | None, bar: Any) -> Callable[[Step], None]:
    def report(step: Step) -> None:
        bar.update()
        if callback is not None:
            callback({"i": step.i, "t": step.t, "sigma": step.t, "x": step.x, "denoised": step.denoised})

    return report
