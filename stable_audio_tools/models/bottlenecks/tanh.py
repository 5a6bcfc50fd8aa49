"""Tanh: latents bounded to [-scale, scale]."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from stable_audio_tools.config.base import PositiveFloat
from stable_audio_tools.errors import ConfigError
from stable_audio_tools.families import BOTTLENECKS
from stable_audio_tools.models.bottlenecks.base import Bottleneck


@BOTTLENECKS.register("tanh")
class TanhBottleneck(Bottleneck):
    """Bounds the latents softly: ``tanh(x / scale) * scale``.

    Args:
        scale: Bound of the latents; must be positive.
    """

    def __init__(self, scale: PositiveFloat = 1.0) -> None:
        super().__init__()
        if scale <= 0:
            raise ConfigError(f"tanh bottleneck: scale must be positive, got {scale}")
        self.scale = scale

    def encode(self, x: Tensor, return_info: bool = False, **kwargs: Any) -> Any:
        x = torch.tanh(x / self.scale) * self.scale
        return (x, {}) if return_info else x

    def decode(self, x: Tensor) -> Tensor:
        return x
