"""Transformer blocks inside the U-Nets."""

from __future__ import annotations

from typing import NamedTuple

from einops import rearrange
from einops.layers.torch import Rearrange
from torch import Tensor, nn

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.models.layers.attention_backends import attend


class AttentionShape(NamedTuple):
    """Sizes of attention: heads H, features E per head, feed-forward multiplier; H or E follows from the width if only one is given."""

    heads: int | None
    features: int | None
    multiplier: int

    def resolved(self, width: int) -> tuple[int, int]:
        """(H, E) for a width.

        Raises:
            ConfigError: If neither is given.
        """
        if self.heads is None and self.features is None:
            raise ConfigError("attention needs attention_heads, attention_features or both")
        heads = self.heads if self.heads is not None else max(1, width // (self.features or 1))
        return heads, self.features if self.features is not None else max(1, width // heads)


class _Merge(nn.Module):
    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.to_out = nn.Linear(width_in, width_out)


class Attention(nn.Module):
    """Self-attention, or cross-attention if ``context_width`` is given: (B, L, width) -> (B, L, width), without residual."""

    def __init__(self, width: int, shape: AttentionShape, context_width: int | None = None) -> None:
        super().__init__()
        self.num_heads, features = shape.resolved(width)
        inner = self.num_heads * features
        context_width = context_width if context_width is not None else width
        self.norm = nn.LayerNorm(width)
        self.norm_context = nn.LayerNorm(context_width)
        self.to_q = nn.Linear(width, inner, bias=False)
        self.to_kv = nn.Linear(context_width, 2 * inner, bias=False)
        self.attention = _Merge(inner, width)

    def forward(self, x: Tensor, keys_values: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Attend.

        Args:
            x: (B, L, width)
            keys_values: What `keys_values` made of a context; None is of ``x``.
        """
        k_BHSE, v_BHSE = keys_values if keys_values is not None else self.keys_values(x)
        return self.attention.to_out(rearrange(attend(self._heads(self.to_q(self.norm(x))), k_BHSE, v_BHSE), "b h l e -> b l (h e)"))

    def keys_values(self, context: Tensor, context_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Keys and values (B, H, S, E) of a context.

        Args:
            context: (B, S, context_width)
            context_mask: (B, S): where it is 0, keys and values are zeroed. Such positions still take their share of attention.
        """
        k, v = self.to_kv(self.norm_context(context)).chunk(2, dim=-1)
        if context_mask is not None:
            weight = context_mask.to(k.dtype)[..., None]
            k, v = k * weight, v * weight
        return self._heads(k), self._heads(v)

    def _heads(self, projected: Tensor) -> Tensor:
        return rearrange(projected, "b l (h e) -> b h l e", h=self.num_heads)


KeysValues = dict[tuple[nn.Module, int], tuple[Tensor, Tensor]]  # by cross-attention and number of items


class Context(NamedTuple):
    """What all levels are conditioned on.

    Attributes:
        mapping: Time and global condition (B, M).
        embedding: (B, S, W), attended to.
        mask: Of the embedding, (B, S).
        computed: What earlier calls with the same embedding computed; filled by the first. None computes it at every call.
    """

    mapping: Tensor | None
    embedding: Tensor | None
    mask: Tensor | None
    computed: KeysValues | None = None

    def keys_values(self, attention: Attention) -> tuple[Tensor, Tensor]:
        """Keys and values of the embedding for one cross-attention.

        Raises:
            ConfigError: If there is no embedding.
        """
        if self.embedding is None:
            raise ConfigError("this U-Net has context_embedding_features: it needs an embedding to attend to")
        if self.computed is None:
            return attention.keys_values(self.embedding, self.mask)
        key = (attention, len(self.embedding))
        if key not in self.computed:
            self.computed[key] = attention.keys_values(self.embedding, self.mask)
        return self.computed[key]


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention if there is a context, feed-forward; each added to its input."""

    def __init__(self, width: int, shape: AttentionShape, context_width: int | None) -> None:
        super().__init__()
        self.attention = Attention(width, shape)
        self.cross_attention = Attention(width, shape, context_width) if context_width is not None else None
        inner = width * shape.multiplier
        self.feed_forward = nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width))

    def forward(self, x: Tensor, context: Context) -> Tensor:
        x = self.attention(x) + x
        if self.cross_attention is not None:
            x = self.cross_attention(x, context.keys_values(self.cross_attention)) + x
        return self.feed_forward(x) + x


class Transformer1d(nn.Module):
    """Transformer blocks on (B, width, L), between two 1x1 convolutions. There is no residual around the whole."""

    def __init__(self, depth: int, width: int, shape: AttentionShape, context_width: int | None) -> None:
        super().__init__()
        if width % 32:
            raise ConfigError(f"levels with attention need a width that is a multiple of 32, got {width}")
        self.to_in = nn.Sequential(nn.GroupNorm(32, width, eps=1e-6), nn.Conv1d(width, width, 1), Rearrange("b c l -> b l c"))
        self.blocks = nn.ModuleList(TransformerBlock(width, shape, context_width) for _ in range(depth))
        self.to_out = nn.Sequential(Rearrange("b l c -> b c l"), nn.Conv1d(width, width, 1))

    def forward(self, x: Tensor, context: Context) -> Tensor:
        x = self.to_in(x)
        for block in self.blocks:
            x = block(x, context)
        return self.to_out(x)
