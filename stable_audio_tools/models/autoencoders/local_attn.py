"""Local attention: transformers with sliding windows that change rate by folding steps into channels; no convolutions.

The published version could never be built, so there are no weights that names and numbers would have to match; the structure is the one
that it describes, with windows in place of neighbourhood attention.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from stable_audio_tools.config.base import NonNegativeInt, PositiveFloat, PositiveInt
from stable_audio_tools.errors import ConfigError
from stable_audio_tools.families import DECODERS, ENCODERS
from stable_audio_tools.models.layers.attention import Attention
from stable_audio_tools.models.layers.embeddings import RotaryEmbedding
from stable_audio_tools.models.layers.feedforward import FeedForward
from stable_audio_tools.models.layers.norms import AdaRMSNorm, LayerNorm
from stable_audio_tools.registry import Options


class LocalTransformer(nn.Module):
    """Transformer layers whose attention sees a window around each step.

    Args:
        dim: Width D.
        depth: Layers.
        heads: Heads; their number must divide the width.
        local_attn_window_size: Steps that attention sees: half of them before, the rest from the step itself on.
        causal: All of them before, and none after.
        ff_mult: How much wider feed-forward parts are inside.
        cond_dim: Width of a condition for the whole clip, which scales every norm; 0 is none.
        cross_attn_cond_dim: Width of a condition that every layer attends to, a multiple of the width of a head; 0 is none.
    """

    def __init__(
        self,
        dim: PositiveInt,
        depth: PositiveInt,
        heads: PositiveInt,
        *,
        local_attn_window_size: PositiveInt = 64,
        causal: bool = False,
        ff_mult: PositiveFloat = 2,
        cond_dim: NonNegativeInt = 0,
        cross_attn_cond_dim: NonNegativeInt = 0,
    ) -> None:
        super().__init__()
        dim_heads = dim // heads
        if dim % heads or dim_heads < 2 or local_attn_window_size < 1:
            raise ConfigError(
                f"local_attn: embed_dims must be multiples of heads, at least twice as large, and local_attn_window_size at least 1, got "
                f"{dim}, {heads} and {local_attn_window_size}"
            )
        before = local_attn_window_size - 1 if causal else local_attn_window_size // 2
        self.window = (before, local_attn_window_size - 1 - before)
        self.rotary_pos_emb = RotaryEmbedding(min(max(dim_heads // 2, 32), dim_heads // 2 * 2))
        self.cond_dim, self.cross_attn_cond_dim = cond_dim, cross_attn_cond_dim

        def norm() -> nn.Module:
            return AdaRMSNorm(dim, cond_dim) if cond_dim else LayerNorm(dim)

        def cross_attention() -> nn.Module:
            return Attention(dim, dim_heads, dim_context=cross_attn_cond_dim) if cross_attn_cond_dim else nn.Identity()

        self.layers = nn.ModuleList(
            nn.ModuleList(
                [
                    norm(),
                    Attention(dim, dim_heads, causal=causal),
                    cross_attention(),
                    norm(),
                    FeedForward(dim, mult=ff_mult, no_bias=True),
                ]
            )
            for _ in range(depth)
        )

    def forward(self, x: Tensor, cond: Tensor | None = None, cross_attn_cond: Tensor | None = None) -> Tensor:
        """(B, L, D) -> (B, L, D).

        Args:
            x: (B, L, D)
            cond: (B, cond_dim)
            cross_attn_cond: (B, S, cross_attn_cond_dim)

        Raises:
            ConfigError: If a condition is missing, or given to a network that has none.
        """
        for name, value, width in (("cond", cond, self.cond_dim), ("cross_attn_cond", cross_attn_cond, self.cross_attn_cond_dim)):
            if (value is not None) != bool(width):
                raise ConfigError(f"local_attn: {name} must be given if, and only if, {name}_dim is set, which is {width}")
        angles = self.rotary_pos_emb.forward_from_seq_len(x.shape[1])
        scales = () if cond is None else (cond,)
        for attention_norm, attention, cross_attention, norm, feed_forward in self.layers:  # pyright: ignore[reportGeneralTypeIssues]
            x = x + attention(attention_norm(x, *scales), rotary_angles=angles, sliding_window=self.window)
            if cross_attn_cond is not None:
                x = x + cross_attention(x, context=cross_attn_cond)
            x = x + feed_forward(norm(x, *scales))
        return x


Conditions = tuple[Tensor | None, Tensor | None]  # for the whole clip, to be attended to


class _Block(nn.Module):
    """A local transformer, and a change of rate after it (down) or before it (up)."""

    def __init__(self, dim_in: int, dim: int, depth: int, heads: int, ratio: int, is_down: bool, options: dict[str, Any]) -> None:
        super().__init__()
        self.ratio, self.is_down = ratio, is_down
        self.project_in = nn.Linear(dim_in, dim, bias=False) if dim_in != dim else nn.Identity()
        self.transformer = LocalTransformer(dim, depth, heads, **options)
        if is_down:
            self.project_down = nn.Linear(dim * ratio, dim, bias=False)
        else:
            self.project_up = nn.Linear(dim, dim * ratio, bias=False)

    def forward(self, x: Tensor, conditions: Conditions) -> Tensor:  # (B, L, D_in) -> (B, L / ratio, D) or (B, L * ratio, D)
        x = self.project_in(x)
        if self.is_down:
            return self.project_down(rearrange(self.transformer(x, *conditions), "b (l r) c -> b l (c r)", r=self.ratio))
        return self.transformer(rearrange(self.project_up(x), "b l (c r) -> b (l r) c", r=self.ratio), *conditions)


def _blocks(
    embed_dims: Sequence[int], depths: Sequence[int], heads: Sequence[int], ratios: Sequence[int], is_down: bool, options: dict[str, Any]
) -> nn.Sequential:
    if not len(embed_dims) == len(depths) == len(heads) == len(ratios) or not len(ratios):
        raise ConfigError(
            "local_attn: embed_dims, heads, depths and ratios must have one entry per block, got "
            f"{len(embed_dims)}, {len(heads)}, {len(depths)} and {len(ratios)}"
        )
    before = [embed_dims[0], *embed_dims]
    sizes = zip(before, embed_dims, depths, heads, ratios, strict=False)
    return nn.Sequential(*(_Block(*size, is_down, options) for size in sizes))


RULES = (("lengths", "ratios", "embed_dims", "heads", "depths"),)


@ENCODERS.register("local_attn", width_key="out_channels", channels_key="in_channels", rules=RULES)
class TransformerEncoder1D(nn.Module):
    """Local transformers, each halving the rate or so: (B, in_channels, T) -> (B, out_channels, ceil(T / prod(ratios))).

    Args:
        in_channels: Audio channels.
        out_channels: Channels of the output. A ``vae`` bottleneck needs twice the model's ``latent_dim`` (mean and scale).
        embed_dims: Width of each block.
        heads: Heads of each block.
        depths: Transformer layers of each block.
        ratios: Downsampling factor of each block.
        **options: Options of every `LocalTransformer`.
    """

    def __init__(
        self,
        in_channels: PositiveInt,
        out_channels: PositiveInt,
        embed_dims: Sequence[PositiveInt] = (96, 192, 384, 768),
        heads: Sequence[PositiveInt] = (12, 12, 12, 12),
        depths: Sequence[NonNegativeInt] = (3, 3, 3, 3),
        ratios: Sequence[PositiveInt] = (2, 2, 2, 2),
        **options: Annotated[Any, Options("LocalTransformer")],
    ) -> None:
        super().__init__()
        self.ratio = math.prod(ratios)
        self.layers = _blocks(embed_dims, depths, heads, ratios, True, options)
        self.project_in = nn.Linear(in_channels, embed_dims[0], bias=False)
        self.project_out = nn.Linear(embed_dims[-1], out_channels, bias=False)

    def forward(self, x: Tensor, cond: Tensor | None = None, cross_attn_cond: Tensor | None = None) -> Tensor:
        """(B, C, T) -> (B, W, L); conditions as of `LocalTransformer`."""
        x = self.project_in(F.pad(x, (0, -x.shape[-1] % self.ratio)).transpose(1, 2))  # (B, T, D)
        for block in self.layers:
            x = block(x, (cond, cross_attn_cond))
        return self.project_out(x).transpose(1, 2)


@DECODERS.register("local_attn", width_key="in_channels", channels_key="out_channels", strides_as_applied=True, rules=RULES)
class TransformerDecoder1D(nn.Module):
    """The encoder's mirror image: (B, in_channels, L) -> (B, out_channels, L * prod(ratios)).

    Args:
        in_channels: Channels of the latents.
        out_channels: Audio channels.
        embed_dims: Width of each block, in the order in which they are applied.
        heads: Heads of each block, in the same order.
        depths: Transformer layers of each block, in the same order.
        ratios: Upsampling factor of each block, in the same order.
        **options: Options of every `LocalTransformer`.
    """

    def __init__(
        self,
        in_channels: PositiveInt,
        out_channels: PositiveInt,
        embed_dims: Sequence[PositiveInt] = (768, 384, 192, 96),
        heads: Sequence[PositiveInt] = (12, 12, 12, 12),
        depths: Sequence[NonNegativeInt] = (3, 3, 3, 3),
        ratios: Sequence[PositiveInt] = (2, 2, 2, 2),
        **options: Annotated[Any, Options("LocalTransformer")],
    ) -> None:
        super().__init__()
        self.layers = _blocks(embed_dims, depths, heads, ratios, False, options)
        self.project_in = nn.Linear(in_channels, embed_dims[0], bias=False)
        self.project_out = nn.Linear(embed_dims[-1], out_channels, bias=False)

    def forward(self, x: Tensor, cond: Tensor | None = None, cross_attn_cond: Tensor | None = None) -> Tensor:
        """(B, D, L) -> (B, C, T); conditions as of `LocalTransformer`."""
        x = self.project_in(x.transpose(1, 2))
        for block in self.layers:
            x = block(x, (cond, cross_attn_cond))
        return self.project_out(x).transpose(1, 2)
