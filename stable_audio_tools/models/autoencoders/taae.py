"""TAAE: strided convolutions, each with a stack of transformer layers. Source: Parker et al. 2024, arXiv:2411.19842."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from torch import Tensor, nn

from stable_audio_tools.config.base import NonNegativeInt, PositiveInt, Window
from stable_audio_tools.errors import ConfigError
from stable_audio_tools.families import DECODERS, ENCODERS
from stable_audio_tools.models.layers.activations import get_activation
from stable_audio_tools.models.layers.conv import WNConv1d, WNConvTranspose1d
from stable_audio_tools.models.layers.recompute import recomputed
from stable_audio_tools.models.layers.residual import residual_units
from stable_audio_tools.models.layers.transformer_block import TransformerBlock
from stable_audio_tools.models.layers.transpose import Transpose
from stable_audio_tools.registry import Options

MappingStyle = Literal["conv", "linear", "none"]


class TAAEBlock(nn.Module):
    """A strided convolution and a stack of transformer layers at the lower rate.

    Args:
        in_channels: Channels of the input (B, C, T).
        out_channels: Channels of the output.
        stride: Factor of the change of rate; 1 is no convolution.
        transformer_depth: Transformer layers.
        is_encoder: Whether the rate goes down; the transformer then comes last, otherwise first.
        use_snake: Snake before the convolution and in residual units; otherwise nothing, and ELU.
        sliding_window: (left, right): how many neighbours attention sees on each side; -1 is no limit.
        checkpointing: Recompute layers in the backward pass of training, to save memory.
        conformer: Transformer layers have a conformer module.
        layer_scale: Transformer layers have a learned gain near zero on every branch.
        use_dilated_conv: Three residual units with dilated convolutions, at the higher rate.
    """

    def __init__(
        self,
        in_channels: PositiveInt,
        out_channels: PositiveInt,
        stride: int,
        transformer_depth: NonNegativeInt,
        is_encoder: bool,
        *,
        use_snake: bool = False,
        sliding_window: Window | None = (63, 64),
        checkpointing: bool = False,
        conformer: bool = False,
        layer_scale: bool = True,
        use_dilated_conv: bool = False,
    ) -> None:
        super().__init__()
        self.sliding_window = sliding_window
        self.checkpointing = checkpointing
        dim = out_channels if is_encoder else in_channels
        transformers = nn.ModuleList(
            TransformerBlock(
                dim,
                dim_heads=min(128, dim),
                zero_init_branch_outputs=not layer_scale,
                conformer=conformer,
                add_rope=True,
                layer_scale=layer_scale,
                attn_kwargs={"qk_norm": "ln"},
                norm_kwargs={"eps": 1e-2},
            )
            for _ in range(transformer_depth)
        )
        stack = nn.ModuleList([Transpose(), *transformers, Transpose()])
        conv = WNConv1d if is_encoder else WNConvTranspose1d
        resample: nn.Module = nn.Identity()
        if stride != 1:
            resample = conv(in_channels, out_channels, kernel_size=2 * stride, stride=stride, padding=math.ceil(stride / 2))
        elif in_channels != out_channels:
            raise ConfigError(f"taae: a stride of 1 cannot change the width, got {in_channels} and {out_channels} channels")
        wide = in_channels if is_encoder else out_channels
        units = residual_units(wide, use_snake) if use_dilated_conv else []
        act = get_activation("snake" if use_snake else "none", channels=in_channels)
        self.layers = nn.ModuleList([*units, act, resample, stack] if is_encoder else [stack, act, resample, *units])

    def forward(self, x: Tensor) -> Tensor:
        """Encoder (B, C_in, T) -> (B, C_out, T / stride), decoder (B, C_in, L) -> (B, C_out, L * stride)."""
        for layer in self.layers:
            for part in layer if isinstance(layer, nn.ModuleList) else [layer]:
                arguments = (x, None, None, None, self.sliding_window) if isinstance(part, TransformerBlock) else (x,)
                x = recomputed(part, *arguments, is_on=self.checkpointing and self.training)
        return x


def _linear(width_in: int, width_out: int) -> list[nn.Module]:
    """(B, C, L) -> (B, C', L), each step for itself."""
    return [Transpose(), nn.Linear(width_in, width_out), Transpose()]


@ENCODERS.register("taae", rules=(("covers", "c_mults", "strides", "transformer_depths"),))
class TAAEEncoder(nn.Module):
    """Strided convolutions, each followed by transformer layers: (B, in_channels, T) -> (B, latent_dim, T / prod(strides)).

    Args:
        in_channels: Audio channels.
        channels: Block i has the width ``channels * c_mults[i]``.
        latent_dim: Channels of the output.
        c_mults: Width multiplier of each block.
        strides: Downsampling factor of each block.
        transformer_depths: Transformer layers of each block.
        mapping_style: What maps audio to the first block and the last block to the output: convolutions (``conv``), or linear layers
            without an activation between (``linear``). With ``none`` the first block takes the audio itself.
        **block: Options of every `TAAEBlock`.
    """

    def __init__(
        self,
        in_channels: PositiveInt = 2,
        channels: PositiveInt = 128,
        latent_dim: PositiveInt = 32,
        c_mults: Sequence[PositiveInt] = (1, 2, 4, 8),
        strides: Sequence[PositiveInt] = (2, 4, 8, 8),
        transformer_depths: Sequence[NonNegativeInt] = (3, 3, 3, 3),
        mapping_style: MappingStyle = "conv",
        **block: Annotated[Any, Options("TAAEBlock")],
    ) -> None:
        super().__init__()
        widths = [channels * mult for mult in (c_mults[0], *c_mults)]
        if mapping_style == "none":
            widths[0] = in_channels
        blocks = [TAAEBlock(*sizes, True, **block) for sizes in zip(widths, widths[1:], strides, transformer_depths, strict=False)]
        if mapping_style == "linear":
            self.layers = nn.Sequential(*_linear(in_channels, widths[0]), *blocks, *_linear(widths[-1], latent_dim))
            return
        self.layers = nn.Sequential(
            *([WNConv1d(in_channels, widths[0], kernel_size=7, padding=3)] if mapping_style == "conv" else []),
            *blocks,
            get_activation("snake" if block.get("use_snake") else "none", channels=widths[-1]),
            WNConv1d(widths[-1], latent_dim, kernel_size=3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:  # (B, C, T) -> (B, W, L)
        return self.layers(x).contiguous()


@DECODERS.register("taae", rules=(("covers", "c_mults", "strides", "transformer_depths"),))
class TAAEDecoder(nn.Module):
    """The encoder's mirror image: (B, latent_dim, L) -> (B, out_channels, L * prod(strides)).

    Args:
        out_channels: Audio channels.
        channels: Block i has the width ``channels * c_mults[i]``.
        latent_dim: Channels of the latents.
        c_mults: Width multipliers, in the *encoder's* order.
        strides: Upsampling factors, in the *encoder's* order.
        transformer_depths: Transformer layers of each block, in the *encoder's* order.
        mapping_style: What maps latents to the first block and the last block to audio: convolutions (``conv``), or linear layers
            without an activation between (``linear``). With ``none`` the last block gives the audio itself.
        **block: Options of every `TAAEBlock`.
    """

    def __init__(
        self,
        out_channels: PositiveInt = 2,
        channels: PositiveInt = 128,
        latent_dim: PositiveInt = 32,
        c_mults: Sequence[PositiveInt] = (1, 2, 4, 8),
        strides: Sequence[PositiveInt] = (2, 4, 8, 8),
        transformer_depths: Sequence[NonNegativeInt] = (3, 3, 3, 3),
        mapping_style: MappingStyle = "conv",
        **block: Annotated[Any, Options("TAAEBlock")],
    ) -> None:
        super().__init__()
        widths = [channels * mult for mult in (c_mults[0], *c_mults)]
        if mapping_style == "none":
            widths[0] = out_channels
        sizes = list(zip(widths[1:], widths, strides, transformer_depths, strict=False))
        blocks = [TAAEBlock(*size, False, **block) for size in reversed(sizes)]
        if mapping_style == "linear":
            self.layers = nn.Sequential(*_linear(latent_dim, widths[-1]), *blocks, *_linear(widths[0], out_channels))
            return
        self.layers = nn.Sequential(
            WNConv1d(latent_dim, widths[-1], kernel_size=3, padding=1),
            *blocks,
            get_activation("snake" if block.get("use_snake") else "none", channels=widths[0]),
            *([WNConv1d(widths[0], out_channels, kernel_size=7, padding=3, bias=False)] if mapping_style == "conv" else []),
        )

    def forward(self, x: Tensor) -> Tensor:  # (B, D, L) -> (B, C, T)
        return self.layers(x).contiguous()
