"""ConvNeXtDiscriminator: a convolutional encoder of hidden states, whose outputs are scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stable_audio_tools.config.base import PositiveInt
from stable_audio_tools.errors import ConfigError
from stable_audio_tools.families import ARC_HEADS
from stable_audio_tools.models.layers.conv import WNConv1d
from stable_audio_tools.models.layers.recompute import recomputed
from stable_audio_tools.registry import Options

RULES = (("lengths", "c_mults", "strides"), ("lengths", "c_mults", "num_blocks"))


class ConvNeXtUnit(nn.Module):
    """Depthwise convolution, widen, activate, narrow, on a residual branch, without norms. All weight-normalised.

    Args:
        dim: Channels.
        mult: How much wider the middle is.
        glu: Gate the middle with a sigmoid, then SiLU, instead of GELU.
    """

    def __init__(self, dim: int, *, mult: PositiveInt = 4, glu: bool = False) -> None:
        super().__init__()
        self.glu = glu
        self.dw_conv = WNConv1d(dim, dim, 7, padding=3, groups=dim)
        self.proj_up = WNConv1d(dim, mult * dim * (2 if glu else 1), 1)
        self.proj_down = WNConv1d(mult * dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:  # (B, D, L) -> (B, D, L)
        h = self.proj_up(self.dw_conv(x))
        if self.glu:
            value, gate = h.chunk(2, dim=1)
            h = F.silu(value * torch.sigmoid(gate))
        else:
            h = F.gelu(h)
        return x + self.proj_down(h)


class ConvNeXtStage(nn.Module):
    """Blocks, then a strided convolution.

    Args:
        in_channels: Before.
        out_channels: After.
        stride: Frames that become one.
        num_blocks: How many blocks.
        conv_args: Options of the blocks.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, num_blocks: int, conv_args: Mapping[str, Any]) -> None:
        super().__init__()
        self.checkpointing = False  # a training setting: recompute blocks in the backward pass to save memory
        self.layers = nn.ModuleList([ConvNeXtUnit(in_channels, **conv_args) for _ in range(num_blocks)])
        self.downsample = WNConv1d(in_channels, out_channels, 2 * stride, stride=stride, padding=math.ceil(stride / 2))

    def forward(self, x: Tensor) -> Tensor:  # (B, D, L) -> (B, D', ~L / stride)
        for layer in self.layers:
            x = recomputed(layer, x, is_on=self.checkpointing and self.training)
        return self.downsample(x)


class ConvNeXtEncoder(nn.Module):
    """Stages of ConvNeXt blocks between two convolutions.

    Args:
        in_channels: Of the input.
        channels: Width; stages have multiples of it.
        latent_dim: Channels of the output.
        c_mults: Width after each stage, as a multiple of ``channels``.
        strides: Frames that become one, per stage.
        num_blocks: Blocks per stage; None is 3 each.
        conv_args: Options of the blocks.
    """

    def __init__(
        self,
        in_channels: int = 2,
        channels: int = 128,
        latent_dim: int = 32,
        c_mults: Sequence[int] = (1, 2, 4, 8),
        strides: Sequence[int] = (2, 4, 8, 8),
        num_blocks: Sequence[int] | None = None,
        conv_args: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        blocks = list(num_blocks) if num_blocks is not None else [3] * len(c_mults)
        if not len(c_mults) == len(strides) == len(blocks):
            raise ConfigError(f"convnext: c_mults, strides and num_blocks have {len(c_mults)}, {len(strides)} and {len(blocks)} items")
        widths = [channels * mult for mult in (1, *c_mults)]
        self.proj_in = WNConv1d(in_channels, widths[0], 7, padding=3)
        stages: list[nn.Module] = [
            ConvNeXtStage(widths[i], widths[i + 1], strides[i], blocks[i], conv_args or {}) for i in range(len(strides))
        ]
        self.layers = nn.Sequential(*stages, WNConv1d(widths[-1], latent_dim, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:  # (B, C, L) -> (B, latent_dim, ~L / product of strides)
        return self.layers(self.proj_in(x)).contiguous()


@ARC_HEADS.register("convnext", rules=RULES, ignored={"loss_type": "losses are those of the training"})
class ConvNeXtDiscriminator(nn.Module):
    """ConvNeXt blocks over the frames, which become fewer and wider from stage to stage.

    Args:
        in_channels: Width of the hidden states; given by the model.
        channels: Width; stages have multiples of it.
        latent_dim: Scores per frame; losses average them.
        c_mults: Width after each stage, as a multiple of ``channels``.
        strides: Frames that become one, per stage.
        num_blocks: Blocks per stage; None is 3 each.
        conv_args: Options of the blocks.
    """

    def __init__(
        self,
        in_channels: int = 2,
        channels: PositiveInt = 128,
        latent_dim: PositiveInt = 32,
        c_mults: Sequence[PositiveInt] = (1, 2, 4, 8),
        strides: Sequence[PositiveInt] = (2, 4, 8, 8),
        num_blocks: Sequence[PositiveInt] | None = None,
        conv_args: Annotated[Mapping[str, Any] | None, Options("ConvNeXtUnit")] = None,
    ) -> None:
        super().__init__()
        self.encoder = ConvNeXtEncoder(in_channels, channels, latent_dim, c_mults, strides, num_blocks, conv_args)

    def forward(self, x: Tensor) -> Tensor:
        """Hidden states (B, D, L) -> scores (B, latent_dim, L')."""
        return self.encoder(x)


__all__ = ["ConvNeXtDiscriminator"]
