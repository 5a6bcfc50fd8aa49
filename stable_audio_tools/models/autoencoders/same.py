"""SAME: transformers that resample by learned tokens; the autoencoder of Stable Audio 3.

Described in Stable Audio 3's model documentation; state-dict keys are those of its checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from torch import Tensor, nn

from stable_audio_tools.config.base import NonNegativeInt, PositiveInt
from stable_audio_tools.errors import ConfigError
from stable_audio_tools.families import DECODERS, ENCODERS
from stable_audio_tools.models.autoencoders.resampling import TransformerResamplingBlock
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


class SAMEBackbone(nn.Module):
    """What both sides share.

    Args:
        outer_channels: Channels of the audio side, where a pretransform may stand between.
        side: ``"encoder"`` or ``"decoder"``.
        channels: Block i has the width ``channels * c_mults[i]``.
        latent_dim: Channels of the latents.
        c_mults: Width multiplier of each block; this and what follows in the *encoder's* order.
        strides: Factor of each block.
        transformer_depths: Transformer layers of each block.
        freeze_backbone: Train only the changes of width.
        sinusoidal_blocks: One more than the number of last layers of each block that have a sine for a gate; 0 is none too. Published
            weights depend on this count.
        sinusoidal_layers: That number itself; wins over ``sinusoidal_blocks``.
        **block: Options of every `TransformerResamplingBlock`.
    """

    layers: nn.ModuleList

    def __init__(
        self,
        outer_channels: PositiveInt,
        side: Literal["encoder", "decoder"],
        *,
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
        super().__init__()
        count = len(c_mults)
        self.strides = _per_block(strides, count, "strides")
        self.freeze_backbone = freeze_backbone
        widths = [outer_channels, *(channels * mult for mult in c_mults)]
        depths = _per_block(transformer_depths, count, "transformer_depths")
        sinusoidal = _num_sinusoidal(sinusoidal_blocks, sinusoidal_layers, count)
        direction = 1 if side == "encoder" else -1

        def resampler(i: int) -> nn.Module:
            width_in, width_out = widths[i : i + 2][::direction]
            return TransformerResamplingBlock(width_in, width_out, self.strides[i], depths[i], side, sinusoidal[i], **block)

        def projection() -> Sequence[nn.Module]:
            width_in, width_out = [widths[-1], latent_dim][::direction]
            return [Transpose(), nn.Linear(width_in, width_out), Transpose()]

        if side == "encoder":
            self.layers = nn.ModuleList([*(resampler(i) for i in range(count)), *projection()])
        else:
            self.layers = nn.ModuleList([*projection(), *(resampler(i) for i in reversed(range(count)))])
        self.requires_grad_()

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

    def requires_grad_(self, requires_grad: bool = True) -> SAMEBackbone:
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
class SAMEEncoder(SAMEBackbone):
    """Transformers over segments with learned tokens: (B, in_channels, T) -> (B, latent_dim, T / prod(strides)).

    Args:
        in_channels: Channels of the input, after a pretransform.
        **same: Options of the `SAMEBackbone`.
    """

    def __init__(self, in_channels: PositiveInt = 2, **same: Annotated[Any, Options("SAMEBackbone")]) -> None:
        super().__init__(in_channels, "encoder", **same)

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
class SAMEDecoder(SAMEBackbone):
    """The encoder's mirror image: (B, latent_dim, L) -> (B, out_channels, L * prod(strides)).

    Args:
        out_channels: Channels of the output, before a pretransform's inverse.
        **same: Options of the `SAMEBackbone`.
    """

    def __init__(self, out_channels: PositiveInt = 2, **same: Annotated[Any, Options("SAMEBackbone")]) -> None:
        super().__init__(out_channels, "decoder", **same)

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
