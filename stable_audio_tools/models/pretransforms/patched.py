"""Patches: consecutive samples become channels. Exactly invertible, without weights."""

from __future__ import annotations

from typing import Any, Literal

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from stable_audio_tools.config.base import PositiveInt
from stable_audio_tools.families import PRETRANSFORMS
from stable_audio_tools.models.pretransforms.base import Pretransform


@PRETRANSFORMS.register("patched", ratio_key="patch_size", audio_key="channels", width_key=("channels", "patch_size"))
class PatchedPretransform(Pretransform):
    """Neighbouring samples as channels: (B, channels, T) to (B, channels * patch_size, T / patch_size).

    T is padded with zeros to a multiple of the patch.

    Args:
        channels: Audio channels.
        patch_size: Samples per patch.
        oversampling: Only 1, which is none.
    """

    def __init__(self, channels: PositiveInt, patch_size: PositiveInt, oversampling: Literal[1] = 1) -> None:
        super().__init__(enable_grad=False, io_channels=channels, is_discrete=False)
        self.patch_size = patch_size
        self.downsampling_ratio = patch_size
        self.encoded_channels = channels * patch_size

    def encode(self, x: Tensor, **kwargs: Any) -> Tensor:
        x = F.pad(x, (0, -x.shape[-1] % self.patch_size))
        return rearrange(x, "b c (l p) -> b (c p) l", p=self.patch_size)

    def decode(self, z: Tensor, **kwargs: Any) -> Tensor:
        return rearrange(z, "b (c p) l -> b c (l p)", p=self.patch_size)
