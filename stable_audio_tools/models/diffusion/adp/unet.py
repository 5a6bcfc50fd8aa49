"""UNet1d: a U-Net of residual blocks with attention on the deeper levels. After audio-diffusion-pytorch, arXiv:2301.11757."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from stable_audio_tools.config.base import NonNegativeInt, PositiveInt
from stable_audio_tools.errors import ConfigError
from stable_audio_tools.models.diffusion.adp.attention import AttentionShape, Context, KeysValues, Transformer1d
from stable_audio_tools.models.diffusion.adp.blocks import Patcher, ResnetBlock1d, Unpatcher, downsample, upsample
from stable_audio_tools.models.diffusion.adp.stft import STFT
from stable_audio_tools.models.layers.embeddings import LearnedPositionalEmbedding


class _Common(NamedTuple):
    """What all levels share."""

    groups: int
    mapping_width: int | None
    context_width: int | None
    attention: AttentionShape
    kernel_multiplier: int
    nearest: bool
    skip_scale: float

    def block(self, width_in: int, width_out: int) -> ResnetBlock1d:
        return ResnetBlock1d(width_in, width_out, self.groups, self.mapping_width)

    def transformer(self, depth: int, width: int) -> Transformer1d | None:
        return Transformer1d(depth, width, self.attention, self.context_width) if depth else None


class _Down(nn.Module):
    def __init__(
        self, common: _Common, width_in: int, width_out: int, *, factor: int, num_blocks: int, attention: int, concat_channels: int
    ) -> None:
        super().__init__()
        self.downsample = downsample(width_in, width_out, factor, common.kernel_multiplier)
        self.blocks = nn.ModuleList(common.block(width_out + (concat_channels if i == 0 else 0), width_out) for i in range(num_blocks))
        self.transformer = common.transformer(attention, width_out)

    def forward(self, x: Tensor, concat: Tensor | None, context: Context) -> tuple[Tensor, list[Tensor]]:
        """(B, C, L) -> (B, C', L / factor), and what the way up gets."""
        x = self.downsample(x)
        if concat is not None:
            x = torch.cat([x, concat], dim=1)
        skips: list[Tensor] = []
        for block in self.blocks:
            x = block(x, context.mapping)
            skips.append(x)
        if self.transformer is not None:
            x = self.transformer(x, context)
            skips.append(x)
        return x, skips


class _Middle(nn.Module):
    def __init__(self, common: _Common, width: int, attention: int) -> None:
        super().__init__()
        self.pre_block = common.block(width, width)
        self.transformer = common.transformer(attention, width)
        self.post_block = common.block(width, width)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        x = self.pre_block(x, context.mapping)
        if self.transformer is not None:
            x = self.transformer(x, context)
        return self.post_block(x, context.mapping)


class _Up(nn.Module):
    def __init__(self, common: _Common, width_in: int, width_out: int, *, factor: int, num_blocks: int, attention: int) -> None:
        super().__init__()
        self.skip_scale = common.skip_scale
        self.blocks = nn.ModuleList(common.block(2 * width_in, width_in) for _ in range(num_blocks))
        self.transformer = common.transformer(attention, width_in)
        self.upsample = upsample(width_in, width_out, factor, nearest=common.nearest)

    def forward(self, x: Tensor, skips: list[Tensor], context: Context) -> Tensor:
        for block, skip in zip(self.blocks, reversed(skips), strict=True):
            x = block(torch.cat([x, skip * self.skip_scale], dim=1), context.mapping)
        return self.upsample(x if self.transformer is None else self.transformer(x, context))


class UNet1d(nn.Module):
    """Predicts from a noisy signal (B, in_channels, L), a time, and conditions. L must be a multiple of ``length_multiple``.

    Args:
        in_channels: Channels of the input.
        channels: Width of the first level is this times ``multipliers[0]``.
        multipliers: Width of each level, relative to ``channels``; one more than there are factors.
        factors: By how much each level is shorter than the one before.
        num_blocks: Residual blocks of each level.
        attentions: Transformer blocks of each level; the last number is the bottleneck's.
        patch_size: Steps that become channels at the start.
        resnet_groups: Groups of the group norms.
        use_context_time: Whether it is told the time.
        kernel_multiplier_downsample: Taps of the downsampling convolutions, relative to their factor; even.
        use_nearest_upsample: Upsample by repetition and a convolution, instead of a transposed convolution.
        use_skip_scale: Scale skip connections by ``2 ** -0.5``.
        use_stft: Work on the spectrum: in the frames of an STFT instead of samples.
        use_stft_context: Take what is concatenated to the input through the STFT, too.
        stft_num_fft: Window length of the transform, in samples; needed with ``use_stft``. Odd, so that T samples make T / hop frames.
        stft_hop_length: Samples between frames.
        stft_window_length: Length of the window, in samples; None is ``stft_num_fft``.
        stft_use_complex: Real and imaginary parts, instead of magnitudes and phases.
        out_channels: Channels of the output; None is ``in_channels``.
        context_features: Width of the global condition; None is none.
        context_features_multiplier: Width of the mapping of time and global condition, relative to ``channels``.
        context_channels: Channels concatenated to the input, then to each level after its downsampling; 0 is none.
        context_embedding_features: Width of the cross-attention condition; None is no cross-attention.
        attention_heads: Heads; None follows from ``attention_features``.
        attention_features: Features per head; None follows from ``attention_heads``.
        attention_multiplier: Inner width of the feed-forward layers, relative to the level's.
    """

    def __init__(
        self,
        *,
        in_channels: PositiveInt,
        channels: PositiveInt,
        multipliers: Sequence[PositiveInt],
        factors: Sequence[PositiveInt],
        num_blocks: Sequence[NonNegativeInt],
        attentions: Sequence[NonNegativeInt],
        patch_size: PositiveInt = 1,
        resnet_groups: PositiveInt = 8,
        use_context_time: bool = True,
        kernel_multiplier_downsample: PositiveInt = 2,
        use_nearest_upsample: bool = False,
        use_skip_scale: bool = True,
        use_stft: bool = False,
        use_stft_context: bool = False,
        stft_num_fft: PositiveInt | None = None,
        stft_hop_length: PositiveInt = 256,
        stft_window_length: PositiveInt | None = None,
        stft_use_complex: bool = False,
        out_channels: PositiveInt | None = None,
        context_features: PositiveInt | None = None,
        context_features_multiplier: PositiveInt = 4,
        context_channels: Sequence[NonNegativeInt] = (),
        context_embedding_features: PositiveInt | None = None,
        attention_heads: PositiveInt | None = None,
        attention_features: PositiveInt | None = None,
        attention_multiplier: PositiveInt = 4,
    ) -> None:
        super().__init__()
        levels = len(multipliers) - 1
        if levels < 1 or len(factors) != levels or len(num_blocks) != levels or len(attentions) < levels:
            raise ConfigError(
                f"U-Net with {len(multipliers)} multipliers needs {levels} factors and num_blocks and at least {levels} attentions (one "
                f"less than multipliers; at least one), got {len(factors)}, {len(num_blocks)} and {len(attentions)}"
            )
        if len(context_channels) > levels + 1:
            raise ConfigError(f"U-Net of {levels} levels takes at most {levels + 1} context_channels, got {len(context_channels)}")
        if use_stft and (stft_num_fft is None or not stft_num_fft % 2):
            raise ConfigError(f"U-Net with use_stft needs an odd stft_num_fft, got {stft_num_fft}")
        self.in_channels = in_channels
        self.length_multiple = math.prod(factors) * patch_size * (stft_hop_length if use_stft else 1)
        self.context_channels = [*context_channels, *[0] * (levels + 1 - len(context_channels))]
        widths = [channels * multiplier for multiplier in multipliers]
        mapping_width = channels * context_features_multiplier if use_context_time or context_features else None
        if mapping_width is not None:
            self.to_mapping = nn.Sequential(
                nn.Linear(mapping_width, mapping_width), nn.GELU(), nn.Linear(mapping_width, mapping_width), nn.GELU()
            )
        self.to_time = time_embedding(channels, mapping_width) if use_context_time and mapping_width is not None else None
        self.to_features = (
            nn.Sequential(nn.Linear(context_features, mapping_width), nn.GELU()) if context_features and mapping_width is not None else None
        )
        self.stft = STFT(stft_num_fft, stft_hop_length, stft_window_length, stft_use_complex) if use_stft and stft_num_fft else None
        self.use_stft_context = use_stft and use_stft_context
        spread = self.stft.channels_per_channel if self.stft is not None else 1
        width_in = in_channels * spread + self.context_channels[0] * (spread if self.use_stft_context else 1)
        common = _Common(
            groups=resnet_groups,
            mapping_width=mapping_width,
            context_width=context_embedding_features,
            attention=AttentionShape(attention_heads, attention_features, attention_multiplier),
            kernel_multiplier=kernel_multiplier_downsample,
            nearest=use_nearest_upsample,
            skip_scale=2**-0.5 if use_skip_scale else 1.0,
        )
        self.to_in = Patcher(width_in, widths[0], patch_size, mapping_width)
        self.downsamples = nn.ModuleList(
            _Down(
                common, widths[i], widths[i + 1], factor=factors[i], num_blocks=num_blocks[i], attention=attentions[i],
                concat_channels=self.context_channels[i + 1],
            )
            for i in range(levels)
        )  # fmt: skip
        self.bottleneck = _Middle(common, widths[-1], attentions[-1])
        self.upsamples = nn.ModuleList(
            _Up(  # one block per skip connection: the transformer on the way down has one too
                common, widths[i + 1], widths[i], factor=factors[i], num_blocks=num_blocks[i] + (attentions[i] > 0), attention=attentions[i]
            )
            for i in reversed(range(levels))
        )  # fmt: skip
        width_out = (out_channels if out_channels is not None else in_channels) * spread
        self.to_out = Unpatcher(widths[0], width_out, patch_size, mapping_width)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        *,
        features: Tensor | None = None,
        channels_list: Sequence[Tensor] | None = None,
        embedding: Tensor | None = None,
        embedding_mask: Tensor | None = None,
        keys_values: KeysValues | None = None,
    ) -> Tensor:
        """Predict.

        Args:
            x: (B, in_channels, L)
            t: Times (B,).
            features: Global condition (B, context_features).
            channels_list: What is concatenated, one tensor per level that has ``context_channels``, each as long as that level.
            embedding: (B, S, context_embedding_features), attended to.
            embedding_mask: (B, S): where it is 0, the embedding is zeroed.
            keys_values: Where calls with the same embedding keep what they share; empty at first.

        Returns:
            (B, out_channels, L)

        Raises:
            ConfigError: If a condition that the network was built for is missing, or has another shape.
        """
        concats = iter(self._concats(channels_list or ()))
        context = Context(self._mapping(t, features), embedding, embedding_mask, keys_values)
        first = next(concats)
        length = x.shape[-1]
        if self.stft is not None:
            dtype = x.dtype
            x = self.stft.encode(x).to(dtype)
            if first is not None and self.use_stft_context:
                first = self.stft.encode(first).to(dtype)
        x = self.to_in(x if first is None else torch.cat([x, first], dim=1), context.mapping)
        start = x
        skips: list[list[Tensor]] = []
        for down, concat in zip(self.downsamples, concats, strict=True):
            x, kept = down(x, concat, context)
            skips.append(kept)
        x = self.bottleneck(x, context)
        for up in self.upsamples:
            x = up(x, skips.pop(), context)
        x = self.to_out(x + start, context.mapping)
        return x if self.stft is None else self.stft.decode(x, length).to(x.dtype)

    def _concats(self, given: Sequence[Tensor]) -> list[Tensor | None]:
        """One entry per level, None where nothing is concatenated."""
        wanted = [width for width in self.context_channels if width]
        if [tensor.shape[1] for tensor in given] != wanted:
            raise ConfigError(f"context_channels are {wanted}, so as many are concatenated, got {[tensor.shape[1] for tensor in given]}")
        rest = iter(given)
        return [next(rest) if width else None for width in self.context_channels]

    def _mapping(self, t: Tensor, features: Tensor | None) -> Tensor | None:
        if (features is None) != (self.to_features is None):
            problem = "needs a global condition" if features is None else "takes no global condition"
            raise ConfigError(f"this U-Net {problem} (context_features)")
        parts: list[Tensor] = []
        if self.to_time is not None:
            parts.append(self.to_time(t))
        if self.to_features is not None:
            parts.append(self.to_features(features))
        return self.to_mapping(sum(parts)) if parts else None  # (B, M)


def time_embedding(dim: int, width: int) -> nn.Sequential:
    """Times (B,) -> (B, width)."""
    return nn.Sequential(nn.Sequential(LearnedPositionalEmbedding(dim), nn.Linear(dim + 1, width)), nn.GELU())
