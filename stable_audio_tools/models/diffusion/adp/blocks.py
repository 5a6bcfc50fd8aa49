"""Convolutional blocks of the U-Nets. Letters: M width of the mapping, what all blocks are modulated by."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.models.layers.recompute import Recomputing


class Conv1d(nn.Conv1d):
    """A convolution that pads so that (B, C, L) becomes (B, C', L / stride), rounded up, if the kernel is as long as the stride."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        (kernel,), (stride,), (dilation,) = self.kernel_size, self.stride, self.dilation
        total = (kernel - 1) * dilation + 1 - stride
        right = total // 2
        extra = -input.shape[-1] % stride  # so that the last frame is full
        return super().forward(F.pad(input, (total - right, right + extra)))


class ConvTranspose1d(nn.ConvTranspose1d):
    """A transposed convolution whose output is exactly ``stride`` times as long as its input."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:  # noqa: A002
        y = super().forward(input, output_size)
        total = y.shape[-1] - input.shape[-1] * self.stride[0]
        right = total // 2
        return y[..., total - right : y.shape[-1] - right]


def downsample(width_in: int, width_out: int, factor: int, kernel_multiplier: int) -> nn.Module:
    """(B, width_in, L) -> (B, width_out, L / factor).

    Raises:
        ConfigError: If ``kernel_multiplier`` is odd: the kernel has ``factor * kernel_multiplier + 1`` taps, around a middle one.
    """
    if kernel_multiplier % 2:
        raise ConfigError(f"kernel_multiplier_downsample must be even, got {kernel_multiplier}")
    return Conv1d(width_in, width_out, factor * kernel_multiplier + 1, stride=factor)


def upsample(width_in: int, width_out: int, factor: int, *, nearest: bool) -> nn.Module:
    """(B, width_in, L) -> (B, width_out, L * factor)."""
    if factor == 1:
        return Conv1d(width_in, width_out, 3)
    if nearest:
        return nn.Sequential(nn.Upsample(scale_factor=factor, mode="nearest"), Conv1d(width_in, width_out, 3))
    return ConvTranspose1d(width_in, width_out, 2 * factor, stride=factor)


class MappingToScaleShift(nn.Module):
    """(B, M) -> scale and shift, (B, width, 1) each."""

    def __init__(self, mapping_width: int, width: int) -> None:
        super().__init__()
        self.to_scale_shift = nn.Sequential(nn.SiLU(), nn.Linear(mapping_width, 2 * width))

    def forward(self, mapping: Tensor) -> tuple[Tensor, Tensor]:
        scale, shift = self.to_scale_shift(mapping)[..., None].chunk(2, dim=1)
        return scale, shift


class ConvBlock1d(nn.Module):
    """Group norm, modulation if there is one, SiLU, convolution of three taps."""

    def __init__(self, width_in: int, width_out: int, groups: int) -> None:
        super().__init__()
        if width_in % groups:
            raise ConfigError(f"resnet_groups must divide the width of every block, got {groups} for a block of width {width_in}")
        self.groupnorm = nn.GroupNorm(groups, width_in)
        self.project = Conv1d(width_in, width_out, 3)

    def forward(self, x: Tensor, scale_shift: tuple[Tensor, Tensor] | None = None) -> Tensor:
        x = self.groupnorm(x)
        if scale_shift is not None:
            scale, shift = scale_shift
            x = x * (scale + 1) + shift
        return self.project(F.silu(x))


class ResnetBlock1d(Recomputing):
    """(B, width_in, L) -> (B, width_out, L): two convolutions, the second modulated by the mapping, plus the input.

    Args:
        width_in: Channels of the input.
        width_out: Channels of the output.
        groups: Groups of its norms.
        mapping_width: Width M of the mapping; None is no modulation.
    """

    def __init__(self, width_in: int, width_out: int, groups: int, mapping_width: int | None) -> None:
        super().__init__()
        self.block1 = ConvBlock1d(width_in, width_out, groups)
        if mapping_width is not None:
            self.to_scale_shift = MappingToScaleShift(mapping_width, width_out)
        self.block2 = ConvBlock1d(width_out, width_out, groups)
        self.to_out = Conv1d(width_in, width_out, 1) if width_in != width_out else nn.Identity()

    def compute(self, x: Tensor, mapping: Tensor | None) -> Tensor:
        hidden = self.block2(self.block1(x), None if mapping is None else self.to_scale_shift(mapping))
        return hidden + self.to_out(x)


class Patcher(nn.Module):
    """(B, width_in, L) -> (B, width_out, L / patch): a block, then consecutive steps become channels."""

    def __init__(self, width_in: int, width_out: int, patch: int, mapping_width: int | None) -> None:
        super().__init__()
        if width_out % patch:
            raise ConfigError(f"patch_size must divide channels * multipliers[0] = {width_out}, got {patch}")
        self.patch = patch
        self.block = ResnetBlock1d(width_in, width_out // patch, 1, mapping_width)

    def forward(self, x: Tensor, mapping: Tensor | None) -> Tensor:
        return rearrange(self.block(x, mapping), "b c (l p) -> b (c p) l", p=self.patch)


class Unpatcher(nn.Module):
    """The way back: (B, width_in, L) -> (B, width_out, L * patch)."""

    def __init__(self, width_in: int, width_out: int, patch: int, mapping_width: int | None) -> None:
        super().__init__()
        self.patch = patch
        self.block = ResnetBlock1d(width_in // patch, width_out, 1, mapping_width)

    def forward(self, x: Tensor, mapping: Tensor | None) -> Tensor:
        return self.block(rearrange(x, "b (c p) l -> b c (l p)", p=self.patch), mapping)


class FixedEmbedding(nn.Module):
    """One learned vector per position, (B, S, width): the condition of guidance when there is none."""

    def __init__(self, max_length: int, width: int) -> None:
        super().__init__()
        self.max_length = max_length
        self.embedding = nn.Embedding(max_length, width)

    def forward(self, like: Tensor) -> Tensor:  # (B, S, width) -> (B, S, width)
        batch, length = like.shape[:2]
        if length > self.max_length:
            raise ConfigError(f"condition of {length} tokens, but context_embedding_max_length is {self.max_length}")
        return self.embedding(torch.arange(length, device=like.device)).expand(batch, -1, -1)
