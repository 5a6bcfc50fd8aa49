"""ConvDiscriminator: strided convolutions over hidden states."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stable_audio_tools.config.base import PositiveFloat
from stable_audio_tools.errors import ConfigError, DataError
from stable_audio_tools.families import ARC_HEADS

GROUPS = 32
MIN_FRAMES = 64  # 4 halvings, then a kernel of 4


@ARC_HEADS.register("conv", ignored={"loss_type": "losses are those of the training"})
class ConvDiscriminator(nn.Module):
    """Four convolutions that each halve the number of frames, group-normalised, then one to a score.

    Args:
        in_channels: Width of the hidden states, a multiple of 32; given by the model.
        soft_clip_scale: Largest size of a score, which tanh bends towards; None is no limit.
    """

    def __init__(self, in_channels: int, soft_clip_scale: PositiveFloat | None = None) -> None:
        super().__init__()
        if in_channels % GROUPS:
            raise ConfigError(f"ARC head 'conv' needs hidden states of a multiple of {GROUPS} channels, got {in_channels}; use 'convnext'")
        self.soft_clip_scale = soft_clip_scale
        layers: list[nn.Module] = []
        for _ in range(4):
            layers += [nn.Conv1d(in_channels, in_channels, 4, stride=2, padding=1), nn.GroupNorm(GROUPS, in_channels), nn.SiLU()]
        self.layers = nn.Sequential(*layers, nn.Conv1d(in_channels, 1, 4))

    def forward(self, x: Tensor) -> Tensor:
        """Hidden states (B, D, L) -> scores (B, 1, L / 16 - 3)."""
        if x.shape[-1] < MIN_FRAMES:
            raise DataError(
                f"ARC head 'conv' needs at least {MIN_FRAMES} latent frames, got {x.shape[-1]}; use longer clips, or 'convnext'"
            )
        scores = self.layers(x)
        if self.soft_clip_scale is None:
            return scores
        return self.soft_clip_scale * torch.tanh(scores / self.soft_clip_scale)


__all__ = ["ConvDiscriminator"]
