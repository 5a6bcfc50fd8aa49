"""SAME: transformers that resample by learned tokens; the autoencoder of Stable Audio 3.

Every segment of ``stride`` steps gets a learned token that comes out as one latent frame, and the other way round. Described in
Stable Audio 3's model documentation; state-dict keys are those of its checkpoints.

Letters: B batch, C channels, N steps of the longer side, L steps of the shorter side, D width, s stride, n segments, E tokens per chunk.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from stable_audio_tools.config.base import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Window
from stable_audio_tools.errors import ConfigError
from stable_audio_tools.families import DECODERS, ENCODERS
from stable_audio_tools.models.layers.conv import WNConv1d
from stable_audio_tools.models.layers.norms import DynamicTanh
from stable_audio_tools.models.layers.transformer import TransformerBlock
from stable_audio_tools.models.layers.transpose import Transpose
from stable_audio_tools.registry import Options

# Keys that published configs carry over from an older architecture, and that never had an effect here.
DEAD_KEYS = {
    "causal": "this architecture is not causal",
    "use_snake": "there are no such activations",
    "use_dilated_conv": "there are no such convolutions",
    "conv_bias": "mapping_bias is what there is",
    "mapping_style": "conv_mapping is what there is",
    "enable_inner_layer_dropout": "there is no dropout",
    "use_flash": "the attention kernel is not a property of the model",
}


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
        recompute = self.checkpointing and self.training and torch.is_grad_enabled()
        for layer in self.transformers[start:stop]:
            arguments = (x, None, None, None, window)
            x = checkpoint(layer, *arguments, use_reentrant=False) if recompute else layer(*arguments)
        return x


class _Same(nn.Module):
    """What both sides share."""

    layers: nn.ModuleList

    def __init__(self, strides: Sequence[int], freeze_backbone: bool) -> None:
        super().__init__()
        self.strides = list(strides)
        self.freeze_backbone = freeze_backbone

    @property
    def blocks(self) -> list[TransformerResamplingBlock]:
        """The blocks, in the order in which they run."""
        return [layer for layer in self.layers if isinstance(layer, TransformerResamplingBlock)]

    @property
    def alignment(self) -> int:
        """Latent frames of whose multiples coding may start somewhere inside the audio, so that chunks of attention stay the same."""
        ratio = math.prod(self.strides)
        blocks = self.blocks if self.blocks[0].is_encoder else self.blocks[::-1]
        spans = [ratio]  # in steps of the longer side
        for index, block in enumerate(blocks):
            if block.sliding_window is None and len(block.transformers):
                spans.append(block.chunk_size * math.prod(self.strides[:index]))
        return math.lcm(*spans) // ratio

    def requires_grad_(self, requires_grad: bool = True) -> _Same:
        super().requires_grad_(requires_grad)
        if self.freeze_backbone:
            for block in self.blocks:
                block.transformers.requires_grad_(False)
                block.new_tokens.requires_grad_(False)
            for layer in self.layers:
                if isinstance(layer, nn.Linear):
                    layer.requires_grad_(False)
        return self


def _per_block(values: int | Sequence[int], count: int, key: str) -> list[int]:
    values = [values] * count if isinstance(values, int) else list(values)
    if len(values) < count:
        raise ConfigError(f"same: {key} has {len(values)} entries, but c_mults makes {count} blocks")
    return values[:count]


def _num_sinusoidal(blocks: int | Sequence[int], layers: int | Sequence[int] | None, count: int) -> list[int]:
    if layers is not None:
        return _per_block(layers, count, "sinusoidal_layers")
    return [max(value - 1, 0) for value in _per_block(blocks, count, "sinusoidal_blocks")]


@ENCODERS.register("same", ignored=DEAD_KEYS)
@ENCODERS.register("taae_v2", ignored=DEAD_KEYS)
class SAMEEncoder(_Same):
    """Transformers over segments with learned tokens: (B, in_channels, T) -> (B, latent_dim, T / prod(strides)).

    Args:
        in_channels: Channels of the input, after a pretransform.
        channels: Block i has the width ``channels * c_mults[i]``.
        latent_dim: Channels of the output.
        c_mults: Width multiplier of each block.
        strides: Downsampling factor of each block.
        transformer_depths: Transformer layers of each block.
        freeze_backbone: Train only the changes of width.
        sinusoidal_blocks: One more than the number of last layers of each block that have a sine for a gate; 0 is none too. Published
            weights depend on this count.
        sinusoidal_layers: That number itself; wins over ``sinusoidal_blocks``.
        **block: Options of every `TransformerResamplingBlock`.
    """

    def __init__(
        self,
        in_channels: PositiveInt = 2,
        channels: PositiveInt = 128,
        latent_dim: PositiveInt = 32,
        c_mults: Sequence[PositiveInt] = (1, 2, 4, 8),
        strides: Sequence[PositiveInt] = (2, 4, 8, 8),
        transformer_depths: Sequence[NonNegativeInt] = (3, 3, 3, 3),
        freeze_backbone: bool = False,
        sinusoidal_blocks: NonNegativeInt | list[NonNegativeInt] = 0,
        sinusoidal_layers: NonNegativeInt | list[NonNegativeInt] | None = None,
        **block: Annotated[Any, Options("TransformerResamplingBlock")],
    ) -> None:
        count = len(c_mults)
        super().__init__(_per_block(strides, count, "strides"), freeze_backbone)
        widths = [in_channels, *(channels * mult for mult in c_mults)]
        depths = _per_block(transformer_depths, count, "transformer_depths")
        sinusoidal = _num_sinusoidal(sinusoidal_blocks, sinusoidal_layers, count)
        self.layers = nn.ModuleList(
            [
                TransformerResamplingBlock(widths[i], widths[i + 1], self.strides[i], depths[i], "encoder", sinusoidal[i], **block)
                for i in range(count)
            ]
            + [Transpose(), nn.Linear(widths[-1], latent_dim), Transpose()]
        )
        self.requires_grad_()

    def forward(self, x: Tensor, override_stride: Sequence[int] | None = None) -> Tensor:
        """Encode.

        Args:
            x: (B, C, T)
            override_stride: Other strides than it was made for, in the order of ``strides``; needs ``variable_stride``.

        Returns:
            (B, W, L) with L = ceil(T / prod(strides))
        """
        length = x.shape[-1]
        strides = _overridden(self.strides, override_stride)
        for block, stride in zip(self.blocks, strides, strict=True):
            x = block(x, stride if override_stride is not None else None)
            length = -(-length // stride) if len(block.transformers) else length
        for layer in self.layers[len(self.blocks) :]:
            x = layer(x)
        return x[..., :length]


@DECODERS.register("same", ignored=DEAD_KEYS)
@DECODERS.register("taae_v2", ignored=DEAD_KEYS)
class SAMEDecoder(_Same):
    """The encoder's mirror image: (B, latent_dim, L) -> (B, out_channels, L * prod(strides)).

    Args:
        out_channels: Channels of the output, before a pretransform's inverse.
        channels: Block i has the width ``channels * c_mults[i]``.
        latent_dim: Channels of the latents.
        c_mults: Width multipliers, in the *encoder's* order.
        strides: Upsampling factors, in the *encoder's* order.
        transformer_depths: Transformer layers of each block, in the *encoder's* order.
        freeze_backbone: Train only the changes of width.
        sinusoidal_blocks: One more than the number of last layers of each block that have a sine for a gate; 0 is none too. Published
            weights depend on this count. In the *encoder's* order.
        sinusoidal_layers: That number itself; wins over ``sinusoidal_blocks``.
        **block: Options of every `TransformerResamplingBlock`.
    """

    def __init__(
        self,
        out_channels: PositiveInt = 2,
        channels: PositiveInt = 128,
        latent_dim: PositiveInt = 32,
        c_mults: Sequence[PositiveInt] = (1, 2, 4, 8),
        strides: Sequence[PositiveInt] = (2, 4, 8, 8),
        transformer_depths: Sequence[NonNegativeInt] = (3, 3, 3, 3),
        freeze_backbone: bool = False,
        sinusoidal_blocks: NonNegativeInt | list[NonNegativeInt] = 0,
        sinusoidal_layers: NonNegativeInt | list[NonNegativeInt] | None = None,
        **block: Annotated[Any, Options("TransformerResamplingBlock")],
    ) -> None:
        count = len(c_mults)
        super().__init__(_per_block(strides, count, "strides"), freeze_backbone)
        widths = [out_channels, *(channels * mult for mult in c_mults)]
        depths = _per_block(transformer_depths, count, "transformer_depths")
        sinusoidal = _num_sinusoidal(sinusoidal_blocks, sinusoidal_layers, count)
        self.layers = nn.ModuleList(
            [Transpose(), nn.Linear(latent_dim, widths[-1]), Transpose()]
            + [
                TransformerResamplingBlock(widths[i + 1], widths[i], self.strides[i], depths[i], "decoder", sinusoidal[i], **block)
                for i in reversed(range(count))
            ]
        )
        self.requires_grad_()

    def forward(self, x: Tensor, override_stride: Sequence[int] | None = None) -> Tensor:
        """Decode.

        Args:
            x: (B, D, L)
            override_stride: Other strides than it was made for, in the order in which they are applied: the reverse of ``strides``; needs
                ``variable_stride``.

        Returns:
            (B, C, L * prod(strides))
        """
        length = x.shape[-1]
        for layer in self.layers[:3]:
            x = layer(x)
        strides = _overridden(self.strides[::-1], override_stride)
        for block, stride in zip(self.blocks, strides, strict=True):
            x = block(x, stride if override_stride is not None else None)
            length = length * stride if len(block.transformers) else length
        return x[..., :length]


def _overridden(strides: list[int], override: Sequence[int] | None) -> list[int]:
    if override is None:
        return strides
    if len(override) != len(strides):
        raise ConfigError(f"same: override_stride needs one entry for each of {len(strides)} blocks, got {list(override)}")
    return list(override)
