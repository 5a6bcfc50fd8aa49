"""Oobleck: the convolutional encoder and decoder of Stable Audio."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from stable_audio_tools.config.base import PositiveInt
from stable_audio_tools.families import DECODERS, ENCODERS
from stable_audio_tools.models.layers.activations import get_activation
from stable_audio_tools.models.layers.conv import WNConv1d, WNConv1dSame, WNConvTranspose1d
from stable_audio_tools.models.layers.residual import residual_units


class EncoderBlock(nn.Module):
    """Three residual units, then a strided convolution: (B, C_in, T) -> (B, C_out, T / stride)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, use_snake: bool = False) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *residual_units(in_channels, use_snake),
            get_activation("snake" if use_snake else "elu", channels=in_channels),  # never anti-aliased: published weights depend on it
            WNConv1d(in_channels, out_channels, kernel_size=2 * stride, stride=stride, padding=math.ceil(stride / 2)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class DecoderBlock(nn.Module):
    """Upsampling, then three residual units: (B, C_in, L) -> (B, C_out, L * stride); one sample less for odd strides."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        use_snake: bool = False,
        antialias_activation: bool = False,
        use_nearest_upsample: bool = False,
    ) -> None:
        super().__init__()
        if use_nearest_upsample:
            upsample: nn.Module = nn.Sequential(
                nn.Upsample(scale_factor=stride, mode="nearest"),
                WNConv1dSame(in_channels, out_channels, kernel_size=2 * stride, bias=False),
            )
        else:
            upsample = WNConvTranspose1d(in_channels, out_channels, kernel_size=2 * stride, stride=stride, padding=math.ceil(stride / 2))
        self.layers = nn.Sequential(
            get_activation("snake" if use_snake else "elu", antialias_activation, in_channels),
            upsample,
            *residual_units(out_channels, use_snake),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


@ENCODERS.register("oobleck", rules=(("covers", "c_mults", "strides"),))
class OobleckEncoder(nn.Module):
    """Residual units and strided convolutions: (B, in_channels, T) -> (B, latent_dim, T / prod(strides)).

    Args:
        in_channels: Audio channels.
        channels: Width of the first layer; block i has ``channels * c_mults[i]``.
        latent_dim: Channels of the output. A ``vae`` bottleneck needs twice the model's ``latent_dim`` (mean and scale).
        c_mults: Width multiplier of each block.
        strides: Downsampling factor of each block.
        use_snake: Snake activations instead of ELU.
        antialias_activation: Anti-alias the last activation.
    """

    def __init__(
        self,
        in_channels: PositiveInt = 2,
        channels: PositiveInt = 128,
        latent_dim: PositiveInt = 32,
        c_mults: Sequence[PositiveInt] = (1, 2, 4, 8),
        strides: Sequence[PositiveInt] = (2, 4, 8, 8),
        use_snake: bool = False,
        antialias_activation: bool = False,
    ) -> None:
        super().__init__()
        widths = [channels * mult for mult in (1, *c_mults)]
        blocks = [EncoderBlock(narrow, wide, stride, use_snake) for narrow, wide, stride in zip(widths, widths[1:], strides, strict=False)]
        self.layers = nn.Sequential(
            WNConv1d(in_channels, widths[0], kernel_size=7, padding=3),
            *blocks,
            get_activation("snake" if use_snake else "elu", antialias_activation, widths[-1]),
            WNConv1d(widths[-1], latent_dim, kernel_size=3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:  # (B, C, T) -> (B, W, L)
        return self.layers(x).contiguous()


@DECODERS.register("oobleck", rules=(("covers", "c_mults", "strides"),))
class OobleckDecoder(nn.Module):
    """The encoder's mirror image: (B, latent_dim, L) -> (B, out_channels, L * prod(strides)).

    Args:
        out_channels: Audio channels.
        channels: Width of the last layer.
        latent_dim: Channels of the latents.
        c_mults: Width multipliers, in the *encoder's* order.
        strides: Upsampling factors, in the *encoder's* order.
        use_snake: Snake activations instead of ELU.
        antialias_activation: Anti-alias the activations before upsampling and the last one.
        use_nearest_upsample: Repeat samples and convolve, instead of transposed convolutions.
        final_tanh: Squash the output to [-1, 1].
    """

    def __init__(
        self,
        out_channels: PositiveInt = 2,
        channels: PositiveInt = 128,
        latent_dim: PositiveInt = 32,
        c_mults: Sequence[PositiveInt] = (1, 2, 4, 8),
        strides: Sequence[PositiveInt] = (2, 4, 8, 8),
        use_snake: bool = False,
        antialias_activation: bool = False,
        use_nearest_upsample: bool = False,
        final_tanh: bool = True,
    ) -> None:
        super().__init__()
        widths = [channels * mult for mult in (1, *c_mults)]
        blocks = [
            DecoderBlock(wide, narrow, stride, use_snake, antialias_activation, use_nearest_upsample)
            for narrow, wide, stride in reversed(list(zip(widths, widths[1:], strides, strict=False)))
        ]
        self.layers = nn.Sequential(
            WNConv1d(latent_dim, widths[-1], kernel_size=7, padding=3),
            *blocks,
            get_activation("snake" if use_snake else "elu", antialias_activation, widths[0]),
            WNConv1d(widths[0], out_channels, kernel_size=7, padding=3, bias=False),
            nn.Tanh() if final_tanh else nn.Identity(),
        )

    def forward(self, x: Tensor) -> Tensor:  # (B, D, L) -> (B, C, T)
        return self.layers(x).contiguous()
