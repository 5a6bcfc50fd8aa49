"""How much a generation makes: its lengths, and the masks over them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.models.diffusion.uncond import DiffusionModelWrapper
from stable_audio_tools.models.diffusion.wrappers import ConditionedDiffusionModelWrapper, seconds_of
from stable_audio_tools.sampling.shifts import Length

logger = logging.getLogger(__name__)
Metadata = Sequence[Mapping[str, Any]]
AnyDiffusionModel = ConditionedDiffusionModelWrapper | DiffusionModelWrapper


class Lengths(NamedTuple):
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
    ) -> Lengths:
        """What `generate_diffusion_cond` documents of its arguments about length; None stands for what the model is configured to."""
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
        samples = whole_steps(model, sample_size)
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


def whole_steps(model: AnyDiffusionModel, sample_size: int) -> int:
    """``sample_size`` rounded down to the model's step."""
    samples = sample_size - sample_size % model.min_input_length
    if samples < 1:
        raise ConfigError(f"sample_size must be at least {model.min_input_length} samples for this model, got {sample_size}")
    return samples


def _chunk_frames(model: ConditionedDiffusionModelWrapper) -> int:
    """Latent frames per chunk of an autoencoder that codes in chunks of its own, else 1."""
    encoder = getattr(getattr(model.pretransform, "model", None), "encoder", None)
    return getattr(encoder, "alignment", 1)


def span_mask(start: float | None, end: float | None, samples: int, sample_rate: int) -> Tensor | None:
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


def latent_mask(mask: Tensor | None, batch_size: int, lengths: Lengths, conditioning: Metadata | None, sample_rate: int) -> Tensor:
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
