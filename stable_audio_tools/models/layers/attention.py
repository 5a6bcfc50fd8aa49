"""Multi-head attention.

Letters: B batch, L queries, S keys, H heads, G key/value heads, E features per head, D = H * E.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from stable_audio_tools.config.base import NonNegativeFloat, PositiveInt
from stable_audio_tools.errors import ConfigError
from stable_audio_tools.models.layers.attention_backends import attend, attend_in_window, narrow_window
from stable_audio_tools.models.layers.embeddings import apply_rotary
from stable_audio_tools.models.layers.kv_cache import AttentionCache, Heads
from stable_audio_tools.models.layers.norms import DynamicTanh, RMSNorm


class Attention(nn.Module):
    """Self-attention, or cross-attention if ``dim_context`` is given.

    Args:
        dim: Width D.
        dim_heads: Features E per head.
        dim_context: Width of the context; its number of heads is ``dim_context / dim_heads`` and must divide the number of heads.
        causal: A query sees only keys up to its own position. Self-attention only.
        zero_init_output: Start with zero output.
        qk_norm: Normalise queries and keys per head: ``"l2"`` to length 1, ``"ln"`` layer norm, ``"rms"`` root mean square, ``"dyt"``
            dynamic tanh.
        qk_norm_eps: Keeps it from dividing by zero; None is 1e-12 for ``"l2"`` and 1e-6 for the others.
        differential: Subtract a second attention map's result. After Ye et al. 2024, arXiv:2410.05258, without its scalar.
        feat_scale: Learn gains for the mean over time and for the rest. After Zhang et al. 2023, arXiv:2302.00843.
    """

    def __init__(
        self,
        dim: PositiveInt,
        dim_heads: PositiveInt = 64,
        dim_context: PositiveInt | None = None,
        causal: bool = False,
        zero_init_output: bool = True,
        *,
        qk_norm: Literal["none", "l2", "ln", "rms", "dyt"] = "none",
        qk_norm_eps: NonNegativeFloat | None = None,
        differential: bool = False,
        feat_scale: bool = False,
    ) -> None:
        super().__init__()
        self.dim_heads = dim_heads
        self.num_heads = dim // dim_heads
        self.causal = causal
        self.qk_norm = qk_norm
        self.differential = differential
        dim_kv = dim_context if dim_context is not None else dim
        self.kv_heads = dim_kv // dim_heads
        if dim % dim_heads or dim_kv % dim_heads or self.num_heads % max(self.kv_heads, 1):
            raise ConfigError(
                f"attention of width {dim} with {dim_heads} features per head and context width {dim_kv}: both widths must be multiples of "
                "the features per head, and the number of heads a multiple of the context's"
            )
        if dim_context is not None:
            self.to_q = nn.Linear(dim, dim * (2 if differential else 1), bias=False)
            self.to_kv = nn.Linear(dim_kv, dim_kv * (3 if differential else 2), bias=False)
        else:
            self.to_qkv = nn.Linear(dim, dim * (5 if differential else 3), bias=False)
        self.to_out = nn.Linear(dim, dim, bias=False)
        if zero_init_output:
            nn.init.zeros_(self.to_out.weight)
        self.qk_norm_eps = qk_norm_eps if qk_norm_eps is not None else 1e-12 if qk_norm == "l2" else 1e-6
        if qk_norm == "ln":
            self.q_norm: nn.Module = nn.LayerNorm(dim_heads, eps=self.qk_norm_eps)
            self.k_norm: nn.Module = nn.LayerNorm(dim_heads, eps=self.qk_norm_eps)
        elif qk_norm == "rms":
            self.q_norm, self.k_norm = RMSNorm(dim_heads, eps=self.qk_norm_eps), RMSNorm(dim_heads, eps=self.qk_norm_eps)
        elif qk_norm == "dyt":
            self.q_norm, self.k_norm = DynamicTanh(dim_heads), DynamicTanh(dim_heads)
        self.feat_scale = feat_scale
        if feat_scale:
            self.lambda_dc = nn.Parameter(torch.zeros(dim))
            self.lambda_hf = nn.Parameter(torch.zeros(dim))

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        rotary_angles: Tensor | None = None,
        sliding_window: Sequence[int] | None = None,
        mask: Tensor | None = None,
        cache: AttentionCache | None = None,
        keys_values: Heads | None = None,
        padding_mask: Tensor | None = None,
        zero_padding: bool = False,
    ) -> Tensor:
        """Attend.

        Args:
            x: (B, L, D)
            context: (B, S, D_context), for cross-attention.
            rotary_angles: (L, R), of the queries, and of the keys in self-attention.
            sliding_window: (left, right): how many neighbours a query sees on each side; -1 is no limit.
            mask: (L, S) or (B, 1, L, S): which keys a query sees, instead of what ``causal`` and ``sliding_window`` say.
            cache: Keys and values of earlier calls. Self-attention then sees them too; cross-attention computes its own only once.
            keys_values: What `keys_values` made of the context, instead of it.
            padding_mask: (B, L), False where ``x`` is padding: means over time leave it out. Which keys are seen is for ``mask`` to say.
            zero_padding: Give the values there no content, though their keys keep their weight.

        Returns:
            (B, L, D)
        """
        band: tuple[int, int] | None = None
        if context is not None or keys_values is not None:
            heads = self._heads(self.to_q(x), ("q", "q_diff") if self.differential else ("q",), rotary_angles)
            if keys_values is None:
                assert context is not None
                fixed = partial(self.keys_values, context)
                keys_values = fixed() if cache is None else cache.once(fixed)
            heads |= keys_values
        else:
            names = ("q", "k", "v", "q_diff", "k_diff") if self.differential else ("q", "k", "v")
            heads = self._heads(self.to_qkv(x), names, rotary_angles)
            if zero_padding and padding_mask is not None:
                heads["v"] = heads["v"] * padding_mask[:, None, :, None]
            if cache is not None:
                heads |= {name: cache.append(name, head) for name, head in heads.items() if not name.startswith("q")}
            if mask is None and sliding_window is not None:
                band = narrow_window(x.shape[1], sliding_window)
                if band is None:
                    mask = window_mask(x.shape[1], sliding_window, x.device)
                    mask = mask.tril() if mask is not None and self.causal else mask
        out_BHLE = self._attend(heads["q"], heads["k"], heads["v"], mask, band)
        if self.differential:
            out_BHLE = out_BHLE - self._attend(heads["q_diff"], heads["k_diff"], heads["v"], mask, band)
        out = self.to_out(rearrange(out_BHLE, "b h n e -> b n (h e)"))  # (B, L, D)
        if self.feat_scale:
            mean = _mean_over_time(out, padding_mask)
            out = out + self.lambda_dc * mean + self.lambda_hf * (out - mean)
        return out

    def keys_values(self, context: Tensor, angles: Tensor | None = None) -> Heads:
        """What cross-attention needs of a context, to be computed once if it is attended to often.

        Args:
            context: (B, S, D_context)
            angles: (S, R), of the keys' positions.

        Returns:
            Heads (B, G, S, E) by name.
        """
        return self._heads(self.to_kv(context), ("k", "k_diff", "v") if self.differential else ("k", "v"), angles)

    def _heads(self, projected: Tensor, names: Sequence[str], angles: Tensor | None) -> Heads:
        """Split what a layer projected into heads (B, H, N, E) by name; queries and keys normalised and rotated."""
        heads: Heads = {}
        for name, part in zip(names, projected.chunk(len(names), -1), strict=True):
            head = rearrange(part, "b n (h e) -> b h n e", e=self.dim_heads)
            if name != "v":
                if self.qk_norm == "l2":
                    head = F.normalize(head, dim=-1, eps=self.qk_norm_eps)
                elif self.qk_norm != "none":
                    head = self.q_norm(head) if name.startswith("q") else self.k_norm(head)
                if angles is not None:
                    head = apply_rotary(head, angles)
            heads[name] = head.to(part.dtype)
        return heads

    def _attend(self, q_BHLE: Tensor, k_BGSE: Tensor, v_BGSE: Tensor, mask: Tensor | None, band: tuple[int, int] | None = None) -> Tensor:
        is_causal = self.causal and mask is None and q_BHLE.shape[-2] > 1
        if self.kv_heads != self.num_heads:
            repeats = self.num_heads // self.kv_heads
            k_BGSE, v_BGSE = k_BGSE.repeat_interleave(repeats, dim=1), v_BGSE.repeat_interleave(repeats, dim=1)
        if band is not None:
            left, right = band
            return attend_in_window(q_BHLE, k_BGSE, v_BGSE, left=left, right=min(right, 0) if is_causal else right)
        return attend(q_BHLE, k_BGSE, v_BGSE, mask=mask, is_causal=is_causal)


def _mean_over_time(x: Tensor, padding_mask: Tensor | None) -> Tensor:
    """(B, L, D) -> (B, 1, D), without the padding."""
    if padding_mask is None:
        return x.mean(dim=-2, keepdim=True)
    weight = padding_mask[..., None].to(x.dtype)
    return (x * weight).sum(dim=-2, keepdim=True) / weight.sum(dim=-2, keepdim=True).clamp(min=1)


def window_mask(length: int, window: Sequence[int], device: torch.device) -> Tensor | None:
    """Which key each query sees: (L, L), True = sees; None if that is everything.

    Args:
        length: Sequence length L.
        window: (left, right): number of neighbours on each side; -1 is no limit.
        device: Where to make it.

    >>> window_mask(3, (1, 0), torch.device("cpu")).int().tolist()
    [[1, 0, 0], [1, 1, 0], [0, 1, 1]]
    """
    left, right = (length if side < 0 else side for side in window)
    if left >= length - 1 and right >= length - 1:
        return None
    offset = torch.arange(length, device=device)[None, :] - torch.arange(length, device=device)[:, None]  # key - query
    return (offset >= -left) & (offset <= right)
