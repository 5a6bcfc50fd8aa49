"""The feed-forward part of a transformer block."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from einops.layers.torch import Rearrange
from torch import Tensor, nn

from stable_audio_tools.config.base import PositiveFloat, PositiveInt
from stable_audio_tools.models.layers.norms import LayerNorm


class GLU(nn.Module):
    """``x * silu(gate)``, both from one linear layer. Source: Shazeer 2020, arXiv:2002.05202.

    Args:
        dim_in: Width of the input.
        dim_out: Width of the output.
        sinusoidal: ``x * sin(pi gate)`` instead.
    """

    def __init__(self, dim_in: int, dim_out: int, sinusoidal: bool = False) -> None:
        super().__init__()
        self.proj = nn.Linear(dim_in, dim_out * 2)
        self.sinusoidal = sinusoidal

    def forward(self, x: Tensor) -> Tensor:  # (..., dim_in) -> (..., dim_out)
        x, gate = self.proj(x).chunk(2, dim=-1)
        return x * (torch.sin(math.pi * gate) if self.sinusoidal else F.silu(gate))


class FeedForward(nn.Module):
    """Widen, activate, narrow.

    Args:
        dim: Width of the input.
        mult: How much wider the middle is.
        no_bias: No bias in the last layer (and the first, unless it is a GLU, whose bias published weights have).
        glu: A gated first layer.
        use_conv: Convolutions over time instead of linear layers.
        conv_kernel_size: Their kernel, odd.
        dim_out: Width of the output; the input's if None.
        zero_init_output: Start as zero, so that the block starts as the identity.
        sinusoidal: A gate that is a sine, in the first layer if that is gated.
    """

    def __init__(
        self,
        dim: PositiveInt,
        *,
        mult: PositiveFloat = 4,
        no_bias: bool = False,
        glu: bool = True,
        use_conv: bool = False,
        conv_kernel_size: PositiveInt = 3,
        dim_out: PositiveInt | None = None,
        zero_init_output: bool = True,
        sinusoidal: bool = False,
    ) -> None:
        super().__init__()
        inner, dim_out = int(dim * mult), dim_out if dim_out is not None else dim
        to_channels_first = Rearrange("b n d -> b d n") if use_conv else nn.Identity()
        to_channels_last = Rearrange("b d n -> b n d") if use_conv else nn.Identity()

        def layer(width_in: int, width_out: int) -> nn.Module:
            if use_conv:
                return nn.Conv1d(width_in, width_out, conv_kernel_size, padding=conv_kernel_size // 2, bias=not no_bias)
            return nn.Linear(width_in, width_out, bias=not no_bias)

        first = GLU(dim, inner, sinusoidal) if glu else nn.Sequential(to_channels_first, layer(dim, inner), to_channels_last, nn.SiLU())
        last = layer(inner, dim_out)
        if zero_init_output:
            for parameter in last.parameters():
                nn.init.zeros_(parameter)
        self.ff = nn.Sequential(first, to_channels_first, last, to_channels_last)

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """(B, L, D) -> (B, L, dim_out); convolutions see zeros where ``padding_mask`` (B, L) is False."""
        first, *rest = self.ff
        h = first(_masked(x, padding_mask))
        h = _masked(h, padding_mask)
        for layer in rest:
            h = layer(h)
        return h


def _masked(x: Tensor, padding_mask: Tensor | None) -> Tensor:
    return x if padding_mask is None else x * padding_mask[..., None]


class ConformerModule(nn.Module):
    """A convolution over time between two pointwise layers. Source: Gulati et al. 2020, arXiv:2005.08100.

    Args:
        dim: Width.
        norm_kwargs: Options of its layer norms.
    """

    def __init__(self, dim: int, norm_kwargs: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.in_norm = LayerNorm(dim, **(norm_kwargs or {}))
        self.pointwise_conv = nn.Conv1d(dim, dim, kernel_size=1, bias=False)
        self.glu = GLU(dim, dim)
        self.depthwise_conv = nn.Conv1d(dim, dim, kernel_size=17, groups=dim, padding=8, bias=False)
        self.mid_norm = LayerNorm(dim, **(norm_kwargs or {}))
        self.pointwise_conv_2 = nn.Conv1d(dim, dim, kernel_size=1, bias=False)

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """(B, L, D) -> (B, L, D); the convolution sees zeros where ``padding_mask`` (B, L) is False."""
        x = self.in_norm(x).transpose(1, 2)  # (B, D, L)
        x = _masked(self.glu(self.pointwise_conv(x).transpose(1, 2)), padding_mask).transpose(1, 2)  # (B, D, L)
        x = self.mid_norm(self.depthwise_conv(x).transpose(1, 2))  # (B, L, D)
        return self.pointwise_conv_2(F.silu(x).transpose(1, 2)).transpose(1, 2)
