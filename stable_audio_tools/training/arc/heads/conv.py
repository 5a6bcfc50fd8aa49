"""ConvDiscriminator: strided convolutions over hidden states."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stable_audio_tools.config.base import PositiveFloat, PositiveInt
from stable_audio_tools.errors import ConfigError, DataError
from stable_audio_tools.families import ARC_HEADS

GROUPS = 32
MIN_FRAMES = 64  # 4 halvings, then a kernel of 4


@ARC_HEADS.register("conv", ignored={"loss_type": "losses are those of the training"})
class ConvDiscriminator(nn.Module):
    """Four convolutions that each halve the number of frames, group-normalised, then one to a score.

    Args:
        in_channels: Width of the hidden states; given by the model.
        soft_clip_scale: Largest size of a score, which tanh bends towards; None is no limit.
        hidden_dim: Channels of the convolutions, a multiple of 32; None is the width of the hidden states.
        anti_aliased: Score the hidden states a second time, moved by a frame, so that no frame is special to the strides.
    """

    def __init__(
        self,
        in_channels: int,
        soft_clip_scale: PositiveFloat | None = None,
        hidden_dim: PositiveInt | None = None,
        anti_aliased: bool = False,
    ) -> None:
        super().__init__()
        width = hidden_dim or in_channels
        if width % GROUPS:
            raise ConfigError(
                f"ARC head 'conv' needs a multiple of {GROUPS} channels, got {width}; give such a hidden_dim, or use 'convnext'"
            )
        self.soft_clip_scale, self.anti_aliased = soft_clip_scale, anti_aliased
        layers: list[nn.Module] = []
        for previous in (in_channels, width, width, width):
            layers += [nn.Conv1d(previous, width, 4, stride=2, padding=1), nn.GroupNorm(GROUPS, width), nn.SiLU()]
        self.layers = nn.Sequential(*layers, nn.Conv1d(width, 1, 4))

    def forward(self, x: Tensor) -> Tensor:
        """Hidden states (B, D, L) -> scores (B, 1, L / 16 - 3), or (2 B, ...) with ``anti_aliased``."""
        if x.shape[-1] < MIN_FRAMES:
            raise DataError(
                f"ARC head 'conv' needs at least {MIN_FRAMES} latent frames, got {x.shape[-1]}; use longer clips, or 'convnext'"
            )
        if self.anti_aliased:
            x = torch.cat([x, x.roll(1, dims=-1)])  # (2 B, D, L)
        scores = self.layers(x)
        if self.soft_clip_scale is None:
            return scores
        return self.soft_clip_scale * torch.tanh(scores / self.soft_clip_scale)


__all__ = ["ConvDiscriminator"]
