"""What makes an autoencoder's task harder in some steps: other strides than usual, and ends that are missing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.models.autoencoders.autoencoder import AudioAutoencoder
from stable_audio_tools.models.autoencoders.same import SAMEBackbone

CURRICULUM_PERIOD = 9  # one step of so many has another stride; odd, so that it is each player's in turn
CURRICULUM_STAGE = 2000  # steps with the same one
TAIL_SHARE = 0.05  # of the items


class Strides(NamedTuple):
    """Options that make a model resample by other factors.

    Attributes:
        encoder: For `AudioAutoencoder.encode`.
        decoder: For `AudioAutoencoder.decode`.
    """

    encoder: dict[str, Any]
    decoder: dict[str, Any]


USUAL_STRIDES = Strides({}, {})


def curriculum(model: AudioAutoencoder, factors: Sequence[float]) -> Iterator[Strides]:
    """The strides of each stage of ``training.stride_curriculum``: those of the innermost block, times a factor.

    Args:
        model: Encoder and decoder must be made for other strides (``variable_stride``).
        factors: One for each stage.

    Raises:
        ConfigError: If they are not, or a stride is no whole number.
    """
    if not factors:
        return
    for name, side in (("encoder", model.encoder), ("decoder", model.decoder)):
        if not isinstance(side, SAMEBackbone) or not all(block.variable_stride for block in side.blocks):
            raise ConfigError(f"training.stride_curriculum: needs a model of type 'same' with variable_stride, which its {name} is not")
    assert isinstance(model.encoder, SAMEBackbone)
    *outer, innermost = model.encoder.strides
    for factor in factors:
        stride = round(innermost * factor)
        if stride < 1 or not math.isclose(stride, innermost * factor):
            raise ConfigError(f"training.stride_curriculum: {innermost}, the innermost stride, times {factor} is no whole number above 0")
        changed = [*outer, stride]
        yield Strides({"override_stride": changed}, {"override_stride": changed[::-1]})


def patch_of(model: AudioAutoencoder) -> int:
    """Samples of what is thought of as one piece: a step of the pretransform, or without one a latent frame."""
    return model.pretransform.downsampling_ratio if model.pretransform is not None else int(model.samples_per_latent)


def without_tails(reals: Tensor, max_patches: int, patch: int) -> Tensor:
    """Audio (B, C, T) of which one item in twenty loses one to ``max_patches`` patches at its end: silence stands there instead.

    Args:
        reals: (B, C, T)
        max_patches: Most that are lost.
        patch: Samples of one.
    """
    count, length = len(reals), reals.shape[-1]
    lost = torch.randint(1, max_patches + 1, (count,)) * (torch.rand(count) < TAIL_SHARE) * patch  # (B,)
    is_kept = torch.arange(length) < length - lost[:, None]  # (B, T)
    return reals * is_kept[:, None].to(reals)
