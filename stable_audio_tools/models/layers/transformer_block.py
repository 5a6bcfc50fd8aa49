"""TransformerBlock: one layer of every transformer here, from plain self-attention to adaLN with conditions per step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stable_audio_tools.config.base import NonNegativeInt, PositiveInt
from stable_audio_tools.errors import ConfigError
from stable_audio_tools.models.layers.attention import Attention
from stable_audio_tools.models.layers.embeddings import RotaryEmbedding
from stable_audio_tools.models.layers.feedforward import ConformerModule, FeedForward
from stable_audio_tools.models.layers.kv_cache import Heads, LayerCache
from stable_audio_tools.models.layers.norms import DynamicTanh, LayerNorm, LayerScale, RMSNorm
from stable_audio_tools.registry import Options


class TransformerBlock(nn.Module):
    """Self-attention, optional cross-attention, optional conformer, feed-forward: each on a residual branch behind a norm.

    Args:
        dim: Width D.
        dim_heads: Features per head.
        cross_attend: Have cross-attention.
        dim_context: Width of its context.
        global_cond_dim: If positive, a global condition shifts, scales and gates the branches (adaLN, arXiv:2212.09748).
        causal: Causal self-attention.
        zero_init_branch_outputs: Branches start at zero (not with ``layer_scale``, which does that itself).
        conformer: Have a conformer module.
        local_add_cond_dim: If positive, the width of a condition per step that is embedded and added before the feed-forward part.
        modular_local_cond_dims: Widths of further such conditions, by id, which may be absent.
        remove_norms: Dynamic tanh instead of layer norms.
        add_rope: Have rotary embeddings of its own, used when none are given.
        layer_scale: A learned gain near zero on every branch.
        attn_kwargs: Options of both attentions.
        ff_kwargs: Options of the feed-forward part.
        norm_kwargs: Options of the norms; ``bias`` is for layer norms only, and dynamic tanh has none.
        norm_type: Norms of the branches. Dynamic tanh starts at slope 4 here, at 10 with ``remove_norms``, the older name.
    """

    def __init__(
        self,
        dim: PositiveInt,
        dim_heads: PositiveInt = 64,
        cross_attend: bool = False,
        dim_context: PositiveInt | None = None,
        global_cond_dim: NonNegativeInt | None = None,
        causal: bool = False,
        zero_init_branch_outputs: bool = True,
        conformer: bool = False,
        local_add_cond_dim: NonNegativeInt = 0,
        modular_local_cond_dims: Mapping[str, PositiveInt] | None = None,
        *,
        remove_norms: bool = False,
        add_rope: bool = False,
        layer_scale: bool = False,
        attn_kwargs: Annotated[Mapping[str, Any] | None, Options("Attention")] = None,
        ff_kwargs: Annotated[Mapping[str, Any] | None, Options("FeedForward")] = None,
        norm_kwargs: Annotated[Mapping[str, Any] | None, Options("LayerNorm")] = None,
        norm_type: Literal["layer_norm", "rms_norm", "dyt"] = "layer_norm",
    ) -> None:
        super().__init__()
        dim_heads = min(dim_heads, dim)
        zero_init = zero_init_branch_outputs and not layer_scale
        attn_kwargs, ff_kwargs, norm_kwargs = attn_kwargs or {}, dict(ff_kwargs or {}), norm_kwargs or {}

        def norm() -> nn.Module:
            if remove_norms:
                return DynamicTanh(dim)
            if norm_type == "dyt":
                return DynamicTanh(dim, init_alpha=4.0)
            if norm_type == "rms_norm":
                if norm_kwargs.get("bias"):
                    raise ConfigError('norm_kwargs.bias: an "rms_norm" has no bias; leave it out, or use "layer_norm"')
                return RMSNorm(dim, **{key: value for key, value in norm_kwargs.items() if key != "bias"})
            return LayerNorm(dim, **norm_kwargs)

        def scale() -> nn.Module:
            return LayerScale(dim) if layer_scale else nn.Identity()

        self.pre_norm = norm()
        self.self_attn = Attention(dim, dim_heads, None, causal, zero_init, **attn_kwargs)
        self.self_attn_scale = scale()
        self.cross_attend = cross_attend
        if cross_attend:
            self.cross_attend_norm = norm()
            self.cross_attn = Attention(dim, dim_heads, dim_context, False, zero_init, **attn_kwargs)
            self.cross_attn_scale = scale()
        self.ff_norm = norm()
        ff_kwargs.setdefault("zero_init_output", zero_init)
        self.ff = FeedForward(dim, **ff_kwargs)
        self.ff_scale = scale()
        self.conformer: nn.Module | None = None
        if conformer:
            self.conformer = ConformerModule(dim, dict(norm_kwargs))
            self.conformer_scale = scale()
        self.is_modulated = bool(global_cond_dim)
        if self.is_modulated:
            self.to_scale_shift_gate = nn.Parameter(torch.randn(6 * dim) / dim**0.5)
        self.rope = RotaryEmbedding(dim_heads // 2) if add_rope else None
        if local_add_cond_dim:
            self.to_local_embed = _local_embedder(local_add_cond_dim, dim)
        if modular_local_cond_dims:
            widths = modular_local_cond_dims.items()
            self.modular_local_embeds = nn.ModuleDict({name: _local_embedder(width, dim) for name, width in widths})

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        global_cond: Tensor | None = None,
        rotary_angles: Tensor | None = None,
        sliding_window: Sequence[int] | None = None,
        mask: Tensor | None = None,
        context_mask: Tensor | None = None,
        cache: LayerCache | None = None,
        start: int = 0,
        *,
        keys_values: Heads | None = None,
        context_angles: tuple[Tensor | None, Tensor | None] = (None, None),
        local_cond: LocalCond | None = None,
        padding: Padding | None = None,
    ) -> Tensor:
        """One block.

        Args:
            x: (B, L, D)
            context: (B', S, dim_context); without it cross-attention is skipped. If B' is less than B, for the items from B' on too: a
                context of zeros, whose values are zero, would add exactly nothing.
            global_cond: (B, 6 D), already projected.
            rotary_angles: (L, R)
            sliding_window: (left, right) of self-attention.
            mask: Of self-attention, see `Attention.forward`.
            context_mask: Of cross-attention: (L, S), True where a query sees the context.
            cache: Of this block, when ``x`` continues what earlier calls saw.
            start: Position of its first step.
            keys_values: What the cross-attention's ``keys_values`` made of the context, instead of it.
            context_angles: Rotary angles of the queries (L, R) and of the keys (S, R) of cross-attention.
            local_cond: Conditions per step, for the last steps of ``x``.
            padding: Where ``x`` is padding.

        Returns:
            (B, L, D)
        """
        if rotary_angles is None and self.rope is not None:
            rotary_angles = self.rope.forward_from_seq_len(start + x.shape[1], start)
        modulation = _Modulation.of(self.to_scale_shift_gate + global_cond) if self.is_modulated and global_cond is not None else None
        h = self.pre_norm(x)
        if modulation is not None:
            h = h * (1 + modulation.scale_self) + modulation.shift_self
        self_cache, cross_cache = cache if cache is not None else (None, None)
        h = self.self_attn(
            h,
            rotary_angles=rotary_angles,
            sliding_window=sliding_window,
            mask=mask,
            cache=self_cache,
            padding_mask=padding.mask if padding is not None else None,
            zero_padding=padding is not None and padding.zero_values,
        )
        if modulation is not None:
            h = h * torch.sigmoid(1 - modulation.gate_self)
        x = x + self.self_attn_scale(h)
        if self.cross_attend and (context is not None or keys_values is not None):
            q_angles, k_angles = context_angles
            if context is not None and k_angles is not None:
                keys_values = self.cross_attn.keys_values(context, k_angles)
            rows = context.shape[0] if context is not None else next(iter((keys_values or {}).values())).shape[0]
            h = self.cross_attn(
                self.cross_attend_norm(x[:rows]),
                context=context,
                rotary_angles=q_angles,
                mask=context_mask,
                cache=cross_cache,
                keys_values=keys_values,
            )
            h = x[:rows] + self.cross_attn_scale(h)
            x = h if rows == x.shape[0] else torch.cat([h, x[rows:]])
        if self.conformer is not None:
            x = x + self.conformer_scale(self.conformer(x, padding.mask if padding is not None else None))
        if local_cond is not None:
            x = self._add_local(x, local_cond)
        h = self.ff_norm(x)
        if modulation is not None:
            h = h * (1 + modulation.scale_ff) + modulation.shift_ff
        h = self.ff(h, padding.mask if padding is not None else None)
        if modulation is not None:
            h = h * torch.sigmoid(1 - modulation.gate_ff)
        return x + self.ff_scale(h)

    def _add_local(self, x: Tensor, local_cond: LocalCond) -> Tensor:
        embedded: list[Tensor] = []
        if local_cond.added is not None:
            embedded.append(self.to_local_embed(local_cond.added))  # (B', L', D)
        embedded += [self.modular_local_embeds[name](value) for name, value in local_cond.modular.items()]
        if not embedded:
            return x
        total = torch.stack(embedded).sum(dim=0) if len(embedded) > 1 else embedded[0]
        total = total[:, -x.shape[1] :]
        total = F.pad(total, (0, 0, x.shape[1] - total.shape[1], 0))  # nothing for memory and prepended tokens
        return x + total.repeat(x.shape[0] // total.shape[0], 1, 1)


class LocalCond(NamedTuple):
    """Conditions per step, at the end of the sequence; B' divides the batch, whose further parts get the same.

    Attributes:
        added: (B', L, local_add_cond_dim)
        modular: Further ones by id, those that there are.
    """

    added: Tensor | None
    modular: Mapping[str, Tensor]


class Padding(NamedTuple):
    """Which steps are padding.

    Attributes:
        mask: (B, L), False there.
        zero_values: Attention gives their values no content, and is not told not to look there.
    """

    mask: Tensor
    zero_values: bool


def _local_embedder(width: int, dim: int) -> nn.Sequential:
    last = nn.Linear(dim, dim)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(width, dim), nn.SiLU(), last)


class _Modulation(NamedTuple):
    """What a global condition does to the two branches of a block; each (B, 1, D)."""

    scale_self: Tensor
    shift_self: Tensor
    gate_self: Tensor
    scale_ff: Tensor
    shift_ff: Tensor
    gate_ff: Tensor

    @classmethod
    def of(cls, values: Tensor) -> _Modulation:  # (B, 6 D)
        return cls(*values.unsqueeze(1).chunk(6, dim=-1))
