"""ContinuousTransformer: a transformer over sequences of vectors, the trunk of DiT, TAAE and the language models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stable_audio_tools.config.base import NonNegativeInt, PositiveInt, Window
from stable_audio_tools.errors import ConfigError
from stable_audio_tools.models.layers.attention import window_mask
from stable_audio_tools.models.layers.embeddings import AbsolutePositionalEmbedding, RotaryEmbedding, ScaledSinusoidalEmbedding
from stable_audio_tools.models.layers.kv_cache import Heads, TransformerCache, attention_mask
from stable_audio_tools.models.layers.recompute import recomputed
from stable_audio_tools.models.layers.transformer_block import LocalCond, Padding, TransformerBlock
from stable_audio_tools.registry import Options


class ContinuousTransformer(nn.Module):
    """Blocks between two projections.

    Args:
        dim: Width D.
        depth: Number of blocks.
        dim_in: Channels of the input; None is ``dim``, without projection.
        dim_out: Channels of the output; None is ``dim``, without projection.
        dim_heads: Features per head.
        cross_attend: Blocks have cross-attention.
        cond_token_dim: Width of the cross-attention context.
        global_cond_dim: Width of the global condition; None or 0 is none.
        local_add_cond_dim: Width of the condition per step; 0 is none.
        modular_local_cond_dims: Widths of further conditions per step, by id.
        final_cross_attn_ix: Index of the last block with cross-attention; -1 is the last block.
        causal: Causal self-attention.
        rotary_pos_emb: Rotary position embeddings.
        zero_init_branch_outputs: Blocks start as the identity.
        conformer: Blocks have a conformer module.
        use_sinusoidal_emb: Add sinusoidal position embeddings.
        use_abs_pos_emb: Add learned position embeddings.
        abs_pos_emb_max_length: How many positions these know.
        num_memory_tokens: Learned tokens put before the sequence.
        sliding_window: (left, right): how many neighbours self-attention sees on each side; -1 is no limit.
        cross_attn_rotary_pos_emb: Rotary position embeddings in cross-attention too.
        cross_attn_rotary_start: Position of the context's first token there: 0, or (``width``) the width of the context less its length,
            as version 0.0.20 has it by mistake.
        padding_attention: What self-attention does with padding, when told where it is: not look there (``mask``), or (``zero_values``)
            find nothing there, though it takes its share of the weights, as version 0.0.20 does without a special kernel.
        **block: Options of every `TransformerBlock`.
    """

    def __init__(
        self,
        dim: PositiveInt,
        depth: PositiveInt,
        dim_in: PositiveInt | None = None,
        dim_out: PositiveInt | None = None,
        dim_heads: PositiveInt = 64,
        cross_attend: bool = False,
        cond_token_dim: NonNegativeInt | None = None,
        global_cond_dim: NonNegativeInt | None = None,
        local_add_cond_dim: NonNegativeInt = 0,
        modular_local_cond_dims: Mapping[str, PositiveInt] | None = None,
        *,
        final_cross_attn_ix: int = -1,
        causal: bool = False,
        rotary_pos_emb: bool = True,
        zero_init_branch_outputs: bool = True,
        conformer: bool = False,
        use_sinusoidal_emb: bool = False,
        use_abs_pos_emb: bool = False,
        abs_pos_emb_max_length: PositiveInt = 10000,
        num_memory_tokens: NonNegativeInt = 0,
        sliding_window: Window | None = None,
        cross_attn_rotary_pos_emb: bool = False,
        cross_attn_rotary_start: Literal["zero", "width"] = "zero",
        padding_attention: Literal["mask", "zero_values"] = "mask",
        **block: Annotated[Any, Options("TransformerBlock")],
    ) -> None:
        super().__init__()
        self.dim = dim
        self.depth = depth
        self.causal = causal
        self.num_memory_tokens = num_memory_tokens
        self.sliding_window = sliding_window
        self.project_in = nn.Linear(dim_in, dim, bias=False) if dim_in is not None else nn.Identity()
        self.project_out = nn.Linear(dim, dim_out, bias=False) if dim_out is not None else nn.Identity()
        # Half of a head's features, but at least 32, as published weights have it; a narrower head can turn no more than it has.
        self.rotary_pos_emb = RotaryEmbedding(min(max(dim_heads // 2, 32), min(dim_heads, dim) // 2 * 2)) if rotary_pos_emb else None
        self.cross_attn_rotary_pos_emb: RotaryEmbedding | None = None
        if cross_attn_rotary_pos_emb:
            self.cross_attn_rotary_pos_emb = RotaryEmbedding(min(max(dim_heads // 2, 32), min(dim_heads, dim) // 2 * 2))
        self.cross_attn_rotary_start = cross_attn_rotary_start
        self.zero_padding_values = padding_attention == "zero_values"
        if num_memory_tokens > 0:
            self.memory_tokens = nn.Parameter(torch.randn(num_memory_tokens, dim))
        self.pos_emb: nn.Module | None = None
        if use_sinusoidal_emb:
            self.pos_emb = ScaledSinusoidalEmbedding(dim)
        if use_abs_pos_emb:
            self.pos_emb = AbsolutePositionalEmbedding(dim, abs_pos_emb_max_length + num_memory_tokens)
        self.global_cond_embedder: nn.Module | None = None
        if global_cond_dim:
            self.global_cond_embedder = nn.Sequential(nn.Linear(global_cond_dim, dim), nn.SiLU(), nn.Linear(dim, dim * 6))
        self.layers = nn.ModuleList(
            TransformerBlock(
                dim,
                dim_heads,
                cross_attend=cross_attend and (final_cross_attn_ix == -1 or index <= final_cross_attn_ix),
                dim_context=cond_token_dim,
                global_cond_dim=global_cond_dim,
                local_add_cond_dim=local_add_cond_dim,
                modular_local_cond_dims=modular_local_cond_dims,
                causal=causal,
                zero_init_branch_outputs=zero_init_branch_outputs,
                conformer=conformer,
                **block,
            )
            for index in range(depth)
        )
        self.gradient_checkpointing = False  # a training setting: recompute blocks in the backward pass to save memory

    def forward(
        self,
        x: Tensor,
        prepend_embeds: Tensor | None = None,
        global_cond: Tensor | None = None,
        return_info: bool = False,
        exit_layer_ix: int | None = None,
        context: Tensor | None = None,
        prepend_mask: Tensor | None = None,
        context_mask: Tensor | None = None,
        cache: TransformerCache | None = None,
        *,
        keys_values: Sequence[Heads | None] | None = None,
        local_cond: LocalCond | None = None,
        padding_mask: Tensor | None = None,
    ) -> Any:
        """Transform a sequence.

        Args:
            x: (B, L, dim_in)
            prepend_embeds: (B, P, D), put before the sequence; they stay in the output.
            global_cond: (B, global_cond_dim)
            return_info: Also return a dict with ``hidden_states``, the output of every block.
            exit_layer_ix: Stop after this block and return its (B, P + L, D), unprojected.
            context: (B', S, cond_token_dim) for cross-attention; without it, or from item B' on, that is left out.
            prepend_mask: (B, P), False where a prepended embedding is padding, which no other position sees. Only with ``causal``.
            context_mask: (M + P + L, S), True where a position sees the context; None is everywhere. M counts memory tokens.
            cache: What earlier calls computed; ``x`` continues their sequence. Filled by the first call, which alone may prepend. Only
                with ``causal``.
            keys_values: What `keys_values` made of the context, instead of it.
            local_cond: Conditions per step of ``x``.
            padding_mask: (B, L), False where ``x`` is padding: no other step sees anything of it.

        Returns:
            (B, P + L, dim_out), or that and the dict.
        """
        assert self.causal or (cache is None and prepend_mask is None)
        start = cache.length if cache is not None else 0
        x = self.project_in(x.to(self._dtype()))
        if prepend_embeds is not None:
            x = torch.cat([prepend_embeds.to(x.dtype), x], dim=1)  # (B, P + L, D)
        num_memory = 0 if start else self.num_memory_tokens
        if num_memory:
            x = torch.cat([self.memory_tokens.to(x.dtype).expand(x.shape[0], -1, -1), x], dim=1)  # (B, M + P + L, D)
        end = start + x.shape[1]
        angles = self.rotary_pos_emb.forward_from_seq_len(end, start) if self.rotary_pos_emb is not None else None
        if self.pos_emb is not None:
            x = x + self.pos_emb(x, start)
        mask = self._mask(x, start, prepend_mask, num_memory, cache) if self.causal else None
        padding: Padding | None = None
        if padding_mask is not None:
            padding = Padding(F.pad(padding_mask.bool(), (x.shape[1] - padding_mask.shape[1], 0), value=True), self.zero_padding_values)
            if not self.zero_padding_values:
                mask = self._padding_mask(padding.mask)
        context_angles: tuple[Tensor | None, Tensor | None] = (None, None)
        if keys_values is not None:
            num_keys = next((heads["k"].shape[2] for heads in keys_values if heads is not None), 1)
            context_angles = (self._query_angles(angles, num_keys), None)
        elif context is not None:
            context_angles = (self._query_angles(angles, context.shape[1]), self._key_angles(context, x.shape[1]))
        if global_cond is not None and self.global_cond_embedder is not None:
            global_cond = self.global_cond_embedder(global_cond)  # (B, 6 D)
        hidden_states: list[Tensor] = []
        for index, layer in enumerate(self.layers):
            layer_cache = cache.layers[index] if cache is not None else None
            arguments = (x, context, global_cond, angles, self.sliding_window, mask, context_mask, layer_cache, start)
            options: dict[str, Any] = {
                "keys_values": keys_values[index] if keys_values is not None else None,
                "context_angles": context_angles,
                "local_cond": local_cond,
                "padding": padding,
            }
            x = recomputed(layer, *arguments, is_on=self.gradient_checkpointing and self.training, **options)
            if return_info:
                hidden_states.append(x)
            if exit_layer_ix is not None and index == exit_layer_ix:
                x = x[:, num_memory:]
                return (x, {"hidden_states": hidden_states}) if return_info else x
        if cache is not None:
            cache.length = end
        x = self.project_out(x[:, num_memory:])
        return (x, {"hidden_states": hidden_states}) if return_info else x

    def keys_values(self, context: Tensor, length: int) -> list[Heads | None]:
        """What the cross-attention of every block needs of a context, to be computed once if it is used often.

        Args:
            context: (B, S, cond_token_dim)
            length: P + L of the sequences that will attend to it; only rotary embeddings in cross-attention depend on it.
        """
        context = context.to(self._dtype())
        angles = self._key_angles(context, self.num_memory_tokens + length)
        attentions: list[Any] = [layer.cross_attn if layer.cross_attend else None for layer in self.layers]
        return [attention and attention.keys_values(context, angles) for attention in attentions]

    # Rotary embeddings in cross-attention: the shorter side's positions are stretched over the longer one.

    def _query_angles(self, angles: Tensor | None, num_keys: int) -> Tensor | None:
        """Rotary angles (L, R) of queries that attend to so many keys, from their angles in self-attention."""
        if self.cross_attn_rotary_pos_emb is None or angles is None:
            return None
        return angles * max(1.0, num_keys / angles.shape[0])

    def _key_angles(self, context: Tensor, num_queries: int) -> Tensor | None:
        """Rotary angles (S, R) of the keys that so many queries attend to."""
        if self.cross_attn_rotary_pos_emb is None or self.rotary_pos_emb is None:
            return None
        num_keys = context.shape[1]
        start = context.shape[2] - num_keys if self.cross_attn_rotary_start == "width" else 0
        if start < 0:
            raise ConfigError(
                f'cross_attn_rotary_start "width": the context has {num_keys} tokens, more than its {context.shape[2]} channels; use "zero"'
            )
        return self.cross_attn_rotary_pos_emb.forward_from_seq_len(start + num_keys, start) * max(1.0, num_queries / num_keys)

    def _padding_mask(self, is_content: Tensor) -> Tensor:
        """Which key a query sees, from where content is (B, L): (B, 1, L, L). Padding sees padding: a softmax over nothing is NaN."""
        sees = is_content[:, None, :] | ~is_content[:, :, None]  # (B, L, L)
        if self.sliding_window is not None:
            window = window_mask(is_content.shape[1], self.sliding_window, is_content.device)
            sees = sees & window if window is not None else sees
        return (sees.tril() if self.causal else sees)[:, None]

    def _mask(self, x: Tensor, start: int, prepend_mask: Tensor | None, num_memory: int, cache: TransformerCache | None) -> Tensor | None:
        """What causal attention and its window cannot tell by themselves: padding, and where a continued sequence stands."""
        key_mask = cache.key_mask if cache is not None else None
        if prepend_mask is not None:
            key_mask = F.pad(prepend_mask.bool(), (num_memory, 0), value=True)  # (B, M + P)
            if cache is not None:
                cache.key_mask = key_mask
        length, end = x.shape[1], start + x.shape[1]
        if key_mask is None and (start == 0 or (length == 1 and self.sliding_window is None)):
            return None
        left, right = self.sliding_window if self.sliding_window is not None else (-1, -1)
        if key_mask is not None:
            key_mask = F.pad(key_mask, (0, end - key_mask.shape[1]), value=True)  # (B, S)
        return attention_mask(length, end, window=(left, right), key_mask=key_mask, device=x.device)

    def _dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype
