"""Patches: consecutive samples become channels. Exactly invertible and without weights, unless oversampled or filtered."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from stable_audio_tools.config.base import NonNegativeInt, PositiveInt
from stable_audio_tools.errors import ConfigError
from stable_audio_tools.families import PRETRANSFORMS
from stable_audio_tools.models.layers.conv import WNConv1d
from stable_audio_tools.models.layers.resample import SincResampler
from stable_audio_tools.models.layers.residual import residual_units
from stable_audio_tools.models.pretransforms.base import Pretransform


def _postfilter(channels: int, width: int) -> nn.Sequential:
    """(B, C, T) -> (B, C, T): smooths the seams between patches."""
    return nn.Sequential(
        WNConv1d(channels, width, kernel_size=7, padding=3),
        *residual_units(width, use_snake=True),
        WNConv1d(width, channels, kernel_size=7, padding=3, bias=False),
    )


@PRETRANSFORMS.register(
    "patched",
    ratio_key="patch_size",
    ratio_divisor_key="oversampling",
    audio_key="channels",
    width_key=("channels", "patch_size"),
    rules=(("multiple", "patch_size", "oversampling"),),
)
class PatchedPretransform(Pretransform):
    """Neighbouring samples as channels: (B, channels, T) to (B, channels * patch_size, T * oversampling / patch_size).

    T is padded with zeros to a multiple of ``patch_size / oversampling``.

    Args:
        channels: Audio channels.
        patch_size: Samples per patch, at the oversampled rate; a multiple of ``oversampling``.
        oversampling: Raise the sample rate by this factor before cutting patches, and lower it again after joining them.
        postfilter_channels: Width of a small convolutional network on the joined patches, before the rate is lowered; 0 is none. It only
            learns with ``enable_grad``.

    Raises:
        ConfigError: If ``patch_size`` is no multiple of ``oversampling``.
    """

    def __init__(
        self, channels: PositiveInt, patch_size: PositiveInt, oversampling: PositiveInt = 1, postfilter_channels: NonNegativeInt = 0
    ) -> None:
        super().__init__(enable_grad=False, io_channels=channels, is_discrete=False)
        if patch_size % oversampling:
            raise ConfigError(
                f"pretransform 'patched': patch_size is {patch_size}, but must be a multiple of oversampling, which is {oversampling}"
            )
        self.patch_size = patch_size
        self.downsampling_ratio = patch_size // oversampling
        self.encoded_channels = channels * patch_size
        if oversampling > 1:
            self.input_upsampler = SincResampler(up=oversampling)
            self.output_downsampler = SincResampler(down=oversampling)
        self.is_oversampled = oversampling > 1
        self.postfilter = _postfilter(channels, postfilter_channels) if postfilter_channels else None

    def encode(self, x: Tensor, **kwargs: Any) -> Tensor:
        x = F.pad(x, (0, -x.shape[-1] % self.downsampling_ratio))
        if self.is_oversampled:
            x = self.input_upsampler(x)  # (B, C, T * oversampling)
        return rearrange(x, "b c (l p) -> b (c p) l", p=self.patch_size)

    def decode(self, z: Tensor, **kwargs: Any) -> Tensor:
        x = rearrange(z, "b (c p) l -> b c (l p)", p=self.patch_size)
        if self.postfilter is not None:
            x = self.postfilter(x).contiguous()
        return self.output_downsampler(x) if self.is_oversampled else x  # (B, C, T)
