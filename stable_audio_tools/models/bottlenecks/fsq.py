"""Finite scalar quantization: every channel is rounded to one of a few levels; there are no codebooks to learn.

Source: Mentzer et al. 2023, arXiv:2309.15505; the dithered kind: Parker et al. 2024, arXiv:2411.19842.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from stable_audio_tools.config.base import NonNegativeInt, PositiveInt, Probability
from stable_audio_tools.errors import ConfigError
from stable_audio_tools.families import BOTTLENECKS
from stable_audio_tools.models.bottlenecks.base import DiscreteBottleneck, check_width, with_noise_channels
from stable_audio_tools.models.layers.parameters import dtype_of, without_autocast


def _checked(levels: Sequence[int], num_codebooks: int, where: str) -> list[int]:
    if not levels or any(level < 2 for level in levels) or num_codebooks < 1:
        raise ConfigError(
            f"{where}: needs at least one level count, each 2 or more, and at least one codebook, got {list(levels)} and {num_codebooks}"
        )
    return list(levels)


class _Grid:
    """Counting in a mixed base: digits ``0 .. level - 1`` of each channel make one index, the first channel counting fastest.

    Its tensors are made when they are needed: buffers that no checkpoint has would stay empty in a model built on the meta device.
    """

    def __init__(self, levels: Sequence[int]) -> None:
        self.levels = list(levels)
        self.size = math.prod(levels)

    def levels_like(self, x: Tensor) -> Tensor:
        """(d,), on the device of ``x``."""
        return torch.tensor(self.levels, device=x.device)

    def _basis(self, x: Tensor) -> Tensor:
        return torch.tensor([math.prod(self.levels[:index]) for index in range(len(self.levels))], device=x.device)

    def index(self, digits: Tensor) -> Tensor:
        """(..., d) -> (...)."""
        return (digits.round().long() * self._basis(digits)).sum(dim=-1)

    def digits(self, index: Tensor) -> Tensor:
        """(...) -> (..., d)."""
        return index.long()[..., None] // self._basis(index) % self.levels_like(index)


class FSQ(nn.Module):
    """Bounds every channel with tanh and rounds it, with a straight-through gradient.

    Args:
        levels: Level counts of the channels of one codebook.
        dim: Channels of input and output; other than ``len(levels) * num_codebooks``, they are projected.
        num_codebooks: Groups of channels, each with an index of its own.
        projection_has_bias: Whether the projections have a bias.
    """

    def __init__(self, levels: Sequence[int], dim: int | None = None, num_codebooks: int = 1, projection_has_bias: bool = True) -> None:
        super().__init__()
        self.grid = _Grid(_checked(levels, num_codebooks, "fsq bottleneck"))
        self.num_codebooks = num_codebooks
        inner = len(levels) * num_codebooks
        self.dim = dim if dim is not None else inner
        has_projections = self.dim != inner
        self.project_in = nn.Linear(self.dim, inner, bias=projection_has_bias) if has_projections else nn.Identity()
        self.project_out = nn.Linear(inner, self.dim, bias=projection_has_bias) if has_projections else nn.Identity()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, L, dim) -> quantized (B, L, dim), and indices (B, L, K)."""
        levels = self.grid.levels_like(x)
        z = rearrange(self.project_in(x), "b n (k d) -> b n k d", k=self.num_codebooks).float()  # a level would be lost in half precision
        half_range = (levels - 1) * (1 + 1e-3) / 2
        offset = torch.where(levels % 2 == 0, 0.5, 0.0)
        bounded = (z + (offset / half_range).atanh()).tanh() * half_range - offset
        codes = (bounded + (bounded.round() - bounded).detach()) / (levels // 2)
        index = self.grid.index(codes.detach() * (levels // 2) + levels // 2)  # (B, L, K)
        index = index.int() if self.grid.size < 2**31 else index
        return self.project_out(rearrange(codes, "b n k d -> b n (k d)").to(x.dtype)), index

    def from_indices(self, index: Tensor) -> Tensor:
        """(B, L, K) -> quantized (B, L, dim)."""
        half = self.grid.levels_like(index) // 2
        codes = (self.grid.digits(index) - half) / half  # (B, L, K, d)
        codes = nn.functional.pad(codes, (0, 0, 0, self.num_codebooks - codes.shape[2]))
        return self.project_out(rearrange(codes, "b n k d -> b n (k d)").to(dtype_of(self.project_out)))


@BOTTLENECKS.register(
    "fsq",
    width_key="dim",
    ignored={
        "keep_num_codebooks_dim": "tokens always have an axis of codebooks",
        "channel_first": "latents are always (B, D, L)",
        "return_indices": "indices are always returned",
        "scale": "it never had an effect",
    },
)
class FSQBottleneck(DiscreteBottleneck):
    """Channels rounded to a few levels. Computes in float32. Tokens: ``quantizer_indices``, (B, K, L).

    Args:
        levels: Level counts of the channels of one codebook, which has as many codes as their product.
        noise_augment_dim: Channels of noise that the decoder gets besides the latents.
        dim: Channels of the latents, if other than ``len(levels) * num_codebooks``.
        num_codebooks: Groups of channels, each with tokens of its own.
        projection_has_bias: Whether the projections to and from ``dim`` have a bias.
    """

    def __init__(
        self,
        levels: Sequence[PositiveInt],
        noise_augment_dim: NonNegativeInt = 0,
        dim: PositiveInt | None = None,
        num_codebooks: PositiveInt = 1,
        projection_has_bias: bool = True,
    ) -> None:
        super().__init__(num_quantizers=num_codebooks, codebook_size=math.prod(levels), tokens_id="quantizer_indices")
        self.noise_augment_dim = noise_augment_dim
        self.quantizer = FSQ(levels, dim, num_codebooks, projection_has_bias)

    def encode(self, x: Tensor, return_info: bool = False, **kwargs: Any) -> Any:
        check_width(x, self.quantizer.dim, "fsq bottleneck", "dim, or len(levels) * num_codebooks,")
        with without_autocast(x.device):
            quantized, index = self.quantizer(x.transpose(1, 2).to(dtype_of(self.quantizer)))  # (B, L, D)
        quantized = quantized.transpose(1, 2).to(x.dtype)  # (B, D, L)
        return (quantized, {"quantizer_indices": index.transpose(1, 2)}) if return_info else quantized

    def decode(self, x: Tensor) -> Tensor:
        return with_noise_channels(x, self.noise_augment_dim)

    def decode_tokens(self, tokens: Tensor) -> Tensor:
        return self.quantizer.from_indices(tokens.transpose(1, 2)).transpose(1, 2)  # (B, D, L)


class DitheredFSQ(nn.Module):
    """Evenly spaced levels in [-1, 1]; in training, noise as large as a step instead of rounding, most of the time.

    Args:
        levels: Level counts of the channels of one codebook.
        num_codebooks: Groups of channels, each with an index of its own.
        noise_dropout: p, chance of an item to go without noise in training: with p (1 - p) it is rounded, with p^2 left as it is.
    """

    def __init__(self, levels: Sequence[int], num_codebooks: int = 1, noise_dropout: float = 0.05) -> None:
        super().__init__()
        self.grid = _Grid(_checked(levels, num_codebooks, "dithered_fsq bottleneck"))
        self.num_codebooks = num_codebooks
        self.noise_dropout = noise_dropout
        self.dim = len(levels) * num_codebooks

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """(B, L, D) -> bounded and quantized (or dithered) (B, L, D), and indices (B, L, K)."""
        z = rearrange(z, "b n (k d) -> b n k d", k=self.num_codebooks).tanh()
        top = (self.grid.levels_like(z) - 1).to(z)
        step = 2 / top
        rounded = z + (((z + 1) / step).round() * step - 1 - z).detach()
        codes = self._dithered(z, rounded, step) if self.training else rounded
        digits = torch.minimum(((codes.detach() + 1) / step).round().clamp(min=0), top)  # noise may leave [-1, 1]
        return rearrange(codes, "b n k d -> b n (k d)"), self.grid.index(digits)

    def _dithered(self, z: Tensor, rounded: Tensor, step: Tensor) -> Tensor:
        chance = z.new_full((z.shape[0], 1, 1, 1), self.noise_dropout)
        kept = torch.where(torch.bernoulli(chance).bool(), z, rounded)
        noisy = z + (torch.rand_like(z) - 0.5) * step
        return torch.where(torch.bernoulli(chance).bool(), kept, noisy)

    def from_indices(self, index: Tensor) -> Tensor:
        """(B, L, K) -> quantized (B, L, D)."""
        codes = self.grid.digits(index) * (2 / (self.grid.levels_like(index) - 1)) - 1  # (B, L, K, d)
        codes = nn.functional.pad(codes, (0, 0, 0, self.num_codebooks - codes.shape[2]))
        return rearrange(codes, "b n k d -> b n (k d)")


@BOTTLENECKS.register("dithered_fsq", ignored={"dither_inference": "it never had an effect: there is no dither after training"})
class DitheredFSQBottleneck(DiscreteBottleneck):
    """Channels in [-1, 1] on evenly spaced levels, trained with noise. Tokens: ``quantizer_indices``, (B, L, K).

    Args:
        dim: Channels of one codebook, or of all; says how many levels there are where ``levels`` is one number.
        levels: Level counts of the channels of one codebook, or one number for all of its ``dim`` channels.
        num_codebooks: Groups of channels, each with tokens of its own.
        noise_dropout: Chance of an item to be trained without noise.
    """

    codebooks_last = True

    def __init__(
        self, dim: PositiveInt, levels: PositiveInt | list[PositiveInt], num_codebooks: PositiveInt = 1, noise_dropout: Probability = 0.05
    ) -> None:
        levels = [levels] * dim if isinstance(levels, int) else list(levels)
        if dim not in (len(levels), len(levels) * num_codebooks):
            raise ConfigError(
                f"dithered_fsq bottleneck: dim is {dim}, but there are {len(levels)} levels for {num_codebooks} codebooks; dim must be "
                f"{len(levels)}, or {len(levels) * num_codebooks}, their channels altogether"
            )
        super().__init__(num_quantizers=num_codebooks, codebook_size=math.prod(levels), tokens_id="quantizer_indices")
        self.quantizer = DitheredFSQ(levels, num_codebooks, noise_dropout)

    def encode(self, x: Tensor, return_info: bool = False, **kwargs: Any) -> Any:
        check_width(x, self.quantizer.dim, "dithered_fsq bottleneck", "len(levels) * num_codebooks")
        rows = x.transpose(1, 2)  # (B, L, D)
        with without_autocast(x.device):
            quantized, index = self.quantizer(rows if rows.dtype in (torch.float32, torch.float64) else rows.float())
        quantized = quantized.transpose(1, 2).to(x.dtype)  # (B, D, L)
        return (quantized, {"quantizer_indices": index}) if return_info else quantized

    def decode(self, x: Tensor) -> Tensor:
        return x

    def decode_tokens(self, tokens: Tensor) -> Tensor:
        return self.quantizer.from_indices(tokens).transpose(1, 2)  # (B, D, L)
