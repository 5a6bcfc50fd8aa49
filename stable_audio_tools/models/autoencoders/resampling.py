"""Transformers that change the rate: every segment of ``stride`` steps gets a learned token that comes out as one frame, or the other way.

Described in Stable Audio 3's model documentation; state-dict keys are those of its checkpoints.

Letters: B batch, C channels, N steps of the longer side, L steps of the shorter side, D width, s stride, n segments, E tokens per chunk.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from stable_audio_tools.config.base import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Window
from stable_audio_tools.errors import ConfigError
from stable_audio_tools.models.layers.conv import WNConv1d
from stable_audio_tools.models.layers.norms import DynamicTanh
from stable_audio_tools.models.layers.recompute import recomputed
from stable_audio_tools.models.layers.transformer_block import TransformerBlock


class TransformerResamplingBlock(nn.Module):
    """One change of rate by ``stride``: transformer layers over segments with learned tokens, and a change of width.

    Args:
        in_channels: Channels of the input (B, C, T).
        out_channels: Channels of the output.
        stride: Steps per segment.
        depth: Transformer layers; with none, only the width changes, not the rate.
        side: ``"encoder"`` makes sequences shorter, ``"decoder"`` longer.
        num_sinusoidal: How many of the last layers have a sine for a gate.
        sliding_window: (left, right): how many segments a token sees besides its own; None is attention in chunks.
        chunk_size: Steps of the longer side per chunk, where attention is in chunks; a multiple of the stride.
        chunk_midpoint_shift: Shift the chunks by half in the second half of the layers. At both ends half a chunk stands twice then.
        dim_heads: Features per head.
        ff_mult: How much wider feed-forward parts are inside.
        differential: Differential attention.
        dyt: Dynamic tanh for norms; otherwise root mean square.
        feat_scale: Learned gains for the mean over time and the rest, after attention.
        conformer: Layers have a conformer module.
        layer_scale: A learned gain near zero on every branch.
        cross_attn: Layers have the weights of a cross-attention, which nothing uses.
        conv_mapping: Change the width with a kernel of 3 rather than 1.
        mapping_bias: Have a bias there.
        variable_stride: One learned token whatever the stride, so that ``forward`` takes other strides.
        mask_noise: Deviation of the noise on learned tokens.
        mask_noise_in_eval: Add it in eval mode too, as published models were used; otherwise coding does not depend on the random stream.
        checkpointing: Recompute layers in the backward pass of training, to save memory.
    """

    def __init__(
        self,
        in_channels: PositiveInt,
        out_channels: PositiveInt,
        stride: int,
        depth: PositiveInt,
        side: Literal["encoder", "decoder"],
        num_sinusoidal: NonNegativeInt = 0,
        *,
        sliding_window: Window | None = None,
        chunk_size: PositiveInt = 128,
        chunk_midpoint_shift: bool = False,
        dim_heads: PositiveInt = 128,
        ff_mult: PositiveFloat = 3,
        differential: bool = True,
        dyt: bool = True,
        feat_scale: bool = False,
        conformer: bool = False,
        layer_scale: bool = False,
        cross_attn: bool = False,
        conv_mapping: bool = False,
        mapping_bias: bool = True,
        variable_stride: bool = False,
        mask_noise: NonNegativeFloat = 0.0,
        mask_noise_in_eval: bool = True,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.is_encoder = side == "encoder"
        self.stride = stride
        self.sliding_window = sliding_window
        self.chunk_size = chunk_size
        self.chunk_midpoint_shift = chunk_midpoint_shift
        self.variable_stride = variable_stride
        self.mask_noise = mask_noise
        self.mask_noise_in_eval = mask_noise_in_eval
        self.checkpointing = checkpointing
        if depth > 0:
            self._check(stride)
        kernel = 3 if conv_mapping else 1
        self.mapping = (
            WNConv1d(in_channels, out_channels, kernel, padding=kernel // 2, bias=mapping_bias)
            if in_channels != out_channels
            else nn.Identity()
        )
        dim = out_channels if self.is_encoder else in_channels
        num_tokens = 1 if self.is_encoder or variable_stride else stride
        self.new_tokens = nn.Parameter(1e-5 * torch.randn(1, num_tokens, dim))
        self.transformers = nn.ModuleList(
            TransformerBlock(
                dim,
                dim_heads,
                cross_attend=cross_attn,
                zero_init_branch_outputs=not layer_scale,
                conformer=conformer,
                add_rope=True,
                layer_scale=layer_scale,
                attn_kwargs={
                    "qk_norm": "dyt" if dyt else "rms",
                    "qk_norm_eps": 1e-3,
                    "differential": differential,
                    "feat_scale": feat_scale,
                },
                ff_kwargs={"mult": ff_mult, "sinusoidal": depth - index <= num_sinusoidal},
                norm_kwargs={"eps": 1e-3},
                norm_type="dyt" if dyt else "rms_norm",
            )
            for index in range(depth)
        )
        for module in self.transformers.modules():
            if isinstance(module, DynamicTanh):
                nn.init.constant_(module.alpha, 4.0)

    def _check(self, stride: int) -> None:
        window = self.sliding_window
        if stride < 1 or (window is not None and len(window) != 2):
            raise ConfigError(f"same: a stride must be at least 1, and sliding_window [left, right] or null, got {stride} and {window}")
        if window is None and (self.chunk_size < 1 or self.chunk_size % stride):
            raise ConfigError(f"same: chunk_size must be a multiple of the stride {stride}, got {self.chunk_size}; or set sliding_window")
        if window is None and self.chunk_midpoint_shift and self.chunk_tokens(stride) % 2:
            raise ConfigError(
                f"same: chunk_midpoint_shift needs an even number of tokens per chunk, but chunk_size {self.chunk_size} with a stride of "
                f"{stride} makes {self.chunk_tokens(stride)}"
            )

    def chunk_tokens(self, stride: int) -> int:
        """Tokens E per chunk: all steps of it, and one more for each segment."""
        return self.chunk_size + self.chunk_size // stride

    def forward(self, x: Tensor, stride: int | None = None) -> Tensor:
        """Resample.

        Args:
            x: (B, C, T)
            stride: Instead of the one it was made for; needs ``variable_stride``.

        Returns:
            Encoder (B, C_out, ceil(T / s)), decoder (B, C_out, T * s); more where attention is in chunks, T then being rounded up to whole
            ones.
        """
        if stride is None:
            stride = self.stride
        elif not self.variable_stride and stride != self.stride:
            raise ConfigError(f"same: another stride than {self.stride} needs variable_stride: true, got {stride}")
        else:
            self._check(stride)
        if not len(self.transformers):
            return self.mapping(x)
        per_chunk = self.chunk_size // stride if self.sliding_window is None else 1  # segments
        if self.is_encoder:
            x = self.mapping(F.pad(x, (0, -x.shape[-1] % (per_chunk * stride))))  # (B, D, N)
            x = self._with_new_tokens(rearrange(x, "b d (n s) -> (b n) s d", s=stride), 1, batch=x.shape[0])
            x = self._attend(x, stride)  # (B, n (s + 1), D)
            return x[:, stride :: stride + 1].transpose(1, 2)  # (B, D, L)
        x = F.pad(x, (0, -x.shape[-1] % per_chunk))
        x = self._with_new_tokens(rearrange(x, "b d n -> (b n) 1 d"), stride, batch=x.shape[0])
        x = self._attend(x, stride)  # (B, n (1 + s), D)
        return self.mapping(rearrange(x.unflatten(1, (-1, stride + 1))[:, :, 1:], "b n s d -> b d (n s)"))  # (B, C_out, N)

    def _with_new_tokens(self, segments: Tensor, count: int, batch: int) -> Tensor:
        """Segments (B n, s, D) with ``count`` learned tokens at the end of each, as one sequence (B, n (s + count), D)."""
        tokens = self.new_tokens.to(segments.dtype).expand(len(segments), count, -1)
        if self.mask_noise > 0 and (self.training or self.mask_noise_in_eval):
            tokens = tokens + torch.randn_like(tokens) * self.mask_noise
        return rearrange(torch.cat([segments, tokens], dim=1), "(b n) s d -> b (n s) d", b=batch)

    def _attend(self, x: Tensor, stride: int) -> Tensor:  # (B, n (s + 1), D) -> the same
        if self.sliding_window is not None:
            window = [side * (stride + 1) if side >= 0 else -1 for side in self.sliding_window]
            return self._layers(x, 0, len(self.transformers), window)
        tokens, batch, depth = self.chunk_tokens(stride), x.shape[0], len(self.transformers)
        shifted_from = depth // 2 if self.chunk_midpoint_shift else depth
        x = self._layers(rearrange(x, "b (k e) d -> (b k) e d", e=tokens), 0, shifted_from, None)
        x = rearrange(x, "(b k) e d -> b (k e) d", b=batch)
        if shifted_from < depth:
            half = tokens // 2
            x = torch.cat([x[:, :half], x, x[:, -half:]], dim=1)  # (B, (k + 1) E, D)
            x = self._layers(rearrange(x, "b (k e) d -> (b k) e d", e=tokens), shifted_from, depth, None)
            x = rearrange(x, "(b k) e d -> b (k e) d", b=batch)[:, half:-half]
        return x

    def _layers(self, x: Tensor, start: int, stop: int, window: list[int] | None) -> Tensor:
        for layer in self.transformers[start:stop]:
            x = recomputed(layer, x, None, None, None, window, is_on=self.checkpointing and self.training)
        return x
