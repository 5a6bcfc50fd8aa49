"""L2: latents on the unit sphere."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from stable_audio_tools.families import BOTTLENECKS
from stable_audio_tools.models.bottlenecks.base import Bottleneck


@BOTTLENECKS.register("l2_norm")
class L2Bottleneck(Bottleneck):
    """Each frame's channels are scaled to length 1, when encoding and again before decoding."""

    def __init__(self) -> None:
        super().__init__()

    def encode(self, x: Tensor, return_info: bool = False, **kwargs: Any) -> Any:
        x = F.normalize(x, dim=1)
        return (x, {}) if return_info else x

    def decode(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=1)
