"""DAC: the convolutional encoder and decoder of the Descript Audio Codec. Source: Kumar et al. 2023, arXiv:2306.06546."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from stable_audio_tools.config.base import PositiveInt
from stable_audio_tools.families import DECODERS, ENCODERS
from stable_audio_tools.models.layers.activations import Snake1d
from stable_audio_tools.models.layers.conv import WNConv1d, WNConvTranspose1d
from stable_audio_tools.models.layers.recompute import Recomputing


class _ResidualUnit(Recomputing):
    """Snake, dilated convolution, snake, 1x1 convolution, plus the input."""

    def __init__(self, dim: int, dilation: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            Snake1d(dim),
            WNConv1d(dim, dim, kernel_size=7, dilation=dilation, padding=3 * dilation),
            Snake1d(dim),
            WNConv1d(dim, dim, kernel_size=1),
        )

    def compute(self, x: Tensor) -> Tensor:  # (B, C, T) -> (B, C, T)
        return x + self.block(x)


class _EncoderBlock(nn.Module):
    """Three residual units, then a strided convolution: (B, dim / 2, T) -> (B, dim, T / stride)."""

    def __init__(self, dim: int, stride: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            *(_ResidualUnit(dim // 2, dilation) for dilation in (1, 3, 9)),
            Snake1d(dim // 2),
            WNConv1d(dim // 2, dim, kernel_size=2 * stride, stride=stride, padding=math.ceil(stride / 2)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


class _DecoderBlock(nn.Module):
    """A transposed convolution, then three residual units: (B, C_in, L) -> (B, C_out, L * stride); one sample less for odd strides."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            Snake1d(in_channels),
            WNConvTranspose1d(in_channels, out_channels, kernel_size=2 * stride, stride=stride, padding=math.ceil(stride / 2)),
            *(_ResidualUnit(out_channels, dilation) for dilation in (1, 3, 9)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


class _Encoder(nn.Module):
    def __init__(self, in_channels: int, d_model: int, strides: Sequence[int]) -> None:
        super().__init__()
        widths = [d_model * 2**index for index in range(len(strides) + 1)]
        self.block = nn.Sequential(
            WNConv1d(in_channels, d_model, kernel_size=7, padding=3),
            *(_EncoderBlock(width, stride) for width, stride in zip(widths[1:], strides, strict=True)),
            Snake1d(widths[-1]),
            WNConv1d(widths[-1], widths[-1], kernel_size=3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


class _Decoder(nn.Module):
    def __init__(self, latent_dim: int, channels: int, rates: Sequence[int], out_channels: int) -> None:
        super().__init__()
        widths = [channels // 2**index for index in range(len(rates) + 1)]
        self.model = nn.Sequential(
            WNConv1d(latent_dim, channels, kernel_size=7, padding=3),
            *(_DecoderBlock(wide, narrow, rate) for wide, narrow, rate in zip(widths, widths[1:], rates, strict=False)),
            Snake1d(widths[-1]),
            WNConv1d(widths[-1], out_channels, kernel_size=7, padding=3),
            nn.Tanh(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


@ENCODERS.register("dac")
class DACEncoderWrapper(nn.Module):
    """Residual units and strided convolutions, each doubling the width: (B, in_channels, T) -> (B, latent_dim, T / prod(strides)).

    Args:
        d_model: Width of the first layer.
        strides: Downsampling factor of each block.
        in_channels: Audio channels.
        latent_dim: Channels of the output; None is the last block's width, ``d_model * 2 ** len(strides)``. A ``vae`` bottleneck needs
            twice the model's ``latent_dim`` (mean and scale).
    """

    def __init__(
        self, d_model: PositiveInt, strides: Sequence[PositiveInt], in_channels: PositiveInt = 1, latent_dim: PositiveInt | None = None
    ) -> None:
        super().__init__()
        self.encoder = _Encoder(in_channels, d_model, strides)
        self.proj_out = nn.Conv1d(d_model * 2 ** len(strides), latent_dim, 1) if latent_dim is not None else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:  # (B, C, T) -> (B, W, L)
        return self.proj_out(self.encoder(x)).contiguous()


@DECODERS.register("dac", strides_as_applied=True)
class DACDecoderWrapper(nn.Module):
    """Transposed convolutions and residual units, each block halving the width; ends with tanh: (B, latent_dim, L) -> (B, out_channels, T).

    Args:
        latent_dim: Channels of the latents.
        channels: Width of the first layer.
        rates: Upsampling factor of each block: the encoder's strides, reversed.
        out_channels: Audio channels.
    """

    def __init__(self, latent_dim: PositiveInt, channels: PositiveInt, rates: Sequence[PositiveInt], out_channels: PositiveInt = 1) -> None:
        super().__init__()
        self.decoder = _Decoder(latent_dim, channels, rates, out_channels)

    def forward(self, x: Tensor) -> Tensor:  # (B, D, L) -> (B, C, T)
        return self.decoder(x).contiguous()
