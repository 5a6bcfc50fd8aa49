"""What the conditional generation functions are asked for, and the network that answers it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from stable_audio_tools.config.model import shift_of
from stable_audio_tools.errors import ConfigError
from stable_audio_tools.families import SAMPLERS, SHIFTS
from stable_audio_tools.inference.arguments import takes_option
from stable_audio_tools.inference.conditions import cast, embedded, encode_init_audio, per_item
from stable_audio_tools.inference.denoising import GuidedNetwork, SamplerOptions
from stable_audio_tools.inference.inversion import InversionParams
from stable_audio_tools.inference.lengths import Lengths, Metadata, latent_mask, span_mask
from stable_audio_tools.models.diffusion.base import prepared
from stable_audio_tools.models.diffusion.wrappers import ConditionedDiffusionModelWrapper
from stable_audio_tools.models.layers.parameters import dtype_of
from stable_audio_tools.sampling.shifts import Shift

logger = logging.getLogger(__name__)
DEFAULT_CFG_SCALE = 6.0


@dataclass(frozen=True, kw_only=True)
class Request:
    """The arguments of `generate_diffusion_cond`."""

    model: ConditionedDiffusionModelWrapper
    steps: int
    cfg_scale: float
    conditioning: Metadata | None
    conditioning_tensors: Mapping[str, Any] | None
    negative_conditioning: Metadata | None
    negative_conditioning_tensors: Mapping[str, Any] | None
    batch_size: int
    sample_size: int
    sample_rate: int | None
    seed: int
    device: torch.device | str | None
    init_audio: tuple[int, Tensor] | None
    init_noise_level: float
    return_latents: bool
    adapt_duration_to_conditioning: bool | None
    duration_padding_sec: float
    use_effective_length_for_schedule: bool | None
    mask_padding_attention: bool | None
    apg_scale: float | None
    dist_shift: Shift | Mapping[str, Any] | None
    sampler_kwargs: dict[str, Any]
    inversion_params: Mapping[str, Any] | InversionParams | None = None

    def audio(self) -> dict[str, Any]:
        """Arguments that are audio, by name."""
        return {"init_audio": self.init_audio}

    def keep(self, lengths: Lengths, conditioning: Metadata | None) -> Tensor | None:
        """Which latent frames are kept, (B, 1, L); None leaves it to the conditions."""
        return None

    def kept(self, lengths: Lengths, device: torch.device) -> Tensor | None:
        """Latents (1, D, L) of which something is kept."""
        return None


@dataclass(frozen=True, kw_only=True)
class InpaintRequest(Request):
    """The arguments of `generate_diffusion_cond_inpaint`."""

    inpaint_audio: tuple[int, Tensor] | None
    inpaint_mask: Tensor | None
    inpaint_mask_start_seconds: float | None
    inpaint_mask_end_seconds: float | None

    def audio(self) -> dict[str, Any]:
        """Arguments that are audio, by name."""
        return super().audio() | {"inpaint_audio": self.inpaint_audio}

    def keep(self, lengths: Lengths, conditioning: Metadata | None) -> Tensor:
        """Which latent frames are kept, (B, 1, L)."""
        mask, rate = self.inpaint_mask, self.model.sample_rate
        if mask is None:
            mask = span_mask(self.inpaint_mask_start_seconds, self.inpaint_mask_end_seconds, lengths.samples, rate)
        return latent_mask(mask, self.batch_size, lengths, conditioning, rate)

    def kept(self, lengths: Lengths, device: torch.device) -> Tensor | None:
        """Latents (1, D, L) of which something is kept; None if there is no audio."""
        if self.inpaint_audio is None:
            return None
        return encode_init_audio(self.model, self.inpaint_audio, lengths.samples, device)


def guided(
    request: Request, inputs: dict[str, Any], lengths: Lengths, options: SamplerOptions, *, drops_conditions: bool = False
) -> GuidedNetwork:
    """The backbone with everything that is the same at all steps.

    Args:
        request: What is asked for.
        inputs: Conditions.
        lengths: How much is made.
        options: Of the sampler.
        drops_conditions: Leave out what training leaves out for guidance. There is no guidance then.
    """
    model, scale = request.model, request.cfg_scale
    is_old = model.sampling_version == "0.0.19"
    inputs = cast(inputs, dtype_of(model.model))
    if not is_old:
        inputs.pop("negative_cross_attn_mask", None)
    inputs = {**inputs, "cfg_dropout_prob": 1.0} if drops_conditions else prepared(model.model, inputs, lengths.frames)
    if lengths.content is not None:
        inputs["padding_mask"] = lengths.content.to(next(model.parameters()).device)
    apg_scale = request.apg_scale
    if apg_scale is None:
        apg_scale = 0.0 if is_old or not takes_option(model.model, "apg_scale") else 1.0
    if apg_scale:
        inputs["apg_scale"] = apg_scale
    if scale not in (1.0, DEFAULT_CFG_SCALE) and not (model.cross_attn_cond_ids or model.prepend_cond_ids):
        logger.warning("cfg_scale %g has no effect: guidance needs conditions for cross-attention, or prepended ones", scale)
    inputs |= {"batch_cfg": True, "rescale_cfg": True, **options.backbone}
    return GuidedNetwork(model.model, model.diffusion_objective, inputs, scale, options.interval)


def for_inversion(
    request: Request, params: InversionParams, inputs: dict[str, Any], lengths: Lengths, options: SamplerOptions, device: torch.device
) -> GuidedNetwork:
    """The backbone that goes from data to noise: knows all conditions but the text.

    Args:
        request: What is asked for.
        params: Of the inversion.
        inputs: Conditions of the generation.
        lengths: How much is made.
        options: Of the sampler.
        device: Where to embed conditions.
    """
    model = request.model
    if params.inversion_unconditional:
        return guided(replace(request, cfg_scale=1.0), inputs, lengths, options, drops_conditions=True)
    conditioning = per_item(request.conditioning, request.batch_size, "conditioning")
    if conditioning is None:
        raise ConfigError("inversion_params: without inversion_unconditional, give conditioning, whose 'prompt' is left empty, not tensors")
    wordless = [{**item, "prompt": ""} if "prompt" in item else item for item in conditioning]
    negative = {key: value for key, value in inputs.items() if key.startswith("negative_")}
    inputs = model.get_conditioning_inputs(embedded(model, wordless, None, device)) | negative
    return guided(replace(request, cfg_scale=params.inversion_cfg_scale), inputs, lengths, options)


def add_kept(
    model: ConditionedDiffusionModelWrapper, conditions: list[dict[str, Any]], noise: Tensor, keep: Tensor | None, kept: Tensor | None
) -> None:
    """Tell an inpainting model what is kept: ``keep`` (B, 1, L) of ``kept`` (1, D, L); nothing, if conditions do not say either."""
    takes_mask = "inpaint_mask" in [*model.input_concat_ids, *model.local_add_cond_ids]
    for given in conditions:
        if keep is None and ("inpaint_mask" in given or not takes_mask):
            continue
        mask = torch.zeros_like(noise[:, :1]) if keep is None else keep.to(noise.device)
        audio = torch.zeros_like(noise) if kept is None else kept.repeat(len(noise), 1, 1) * mask
        given |= {"inpaint_mask": [mask], "inpaint_masked_input": [audio]}


def sampling_shift(model: ConditionedDiffusionModelWrapper, given: Shift | Mapping[str, Any] | None, sampler: str) -> Shift | None:
    """The shift of the sampling times, as documented in `generate_diffusion_cond`."""
    if given is not None:
        return given if isinstance(given, Shift) else SHIFTS.build(*shift_of(given))
    facts = SAMPLERS.part(sampler).facts if sampler in SAMPLERS else {}
    if model.sampling_dist_shift is not None and facts.get("space") == "time":
        return model.sampling_dist_shift
    return model.dist_shift if sampler == "rk4" and model.sampling_version == "0.0.19" else None
