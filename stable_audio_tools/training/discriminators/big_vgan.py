"""The discriminators of BigVGAN: periods, and octaves of constant-Q transforms.

Source: Lee et al. 2022, arXiv:2206.04658, whose second version replaced its spectrograms by the transforms of Gu et al. 2023,
arXiv:2311.14957. Letters: F bins, N frames.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from stable_audio_tools.config.base import PositiveInt
from stable_audio_tools.errors import ConfigError
from stable_audio_tools.families import DISCRIMINATORS
from stable_audio_tools.models.layers.conv import WNConv2d
from stable_audio_tools.training.discriminators.base import EnsembleDiscriminator, Judgement, Members
from stable_audio_tools.training.discriminators.cqt import ConstantQ
from stable_audio_tools.training.discriminators.dac import PeriodDiscriminator

SLOPE = 0.1


class ConstantQDiscriminator(nn.Module):
    """Convolutions over one constant-Q transform, whose octaves first have a layer each.

    Args:
        in_channels: Audio channels.
        filters: Channels of the layers.
        hop_length: Samples between frames.
        num_octaves: Octaves of the transform.
        bins_per_octave: Bins in each.
    """

    def __init__(self, in_channels: int, filters: int, hop_length: int, num_octaves: int, bins_per_octave: int) -> None:
        super().__init__()
        self.transform = ConstantQ(hop_length, num_octaves, bins_per_octave)
        width = 2 * in_channels
        self.conv_pres = nn.ModuleList(WNConv2d(width, width, (3, 9), padding=(1, 4)) for _ in range(num_octaves))
        self.convs = nn.ModuleList([
            WNConv2d(width, filters, (3, 9), padding=(1, 4)),
            *(WNConv2d(filters, filters, (3, 9), (1, 2), padding=(dilation, 4), dilation=(dilation, 1)) for dilation in (1, 2, 4)),
            WNConv2d(filters, filters, (3, 3), padding=(1, 1)),
        ])  # fmt: skip
        self.conv_post = WNConv2d(filters, 1, (3, 3), padding=(1, 1))

    def forward(self, audio: Tensor) -> Judgement:
        """(B, C, T) -> score (B, 1, N, frequencies) and features."""
        spectrum = self.transform(audio)  # complex (B, C, F, N)
        parts = rearrange(torch.cat([spectrum.real, spectrum.imag], dim=1), "b c f n -> b c n f")
        octaves = parts.split(self.transform.bins_per_octave, dim=-1)
        x = torch.cat([conv(octave) for conv, octave in zip(self.conv_pres, octaves, strict=True)], dim=-1)
        features: list[Tensor] = []
        for conv in self.convs:
            x = F.leaky_relu(conv(x), SLOPE)
            features.append(x)
        return Judgement(self.conv_post(x), features)


@DISCRIMINATORS.register("big_vgan", rules=(("lengths", "hop_lengths", "bins_per_octaves"),))
class BigVGANDiscriminator(EnsembleDiscriminator):
    """Audio folded by several periods, and constant-Q transforms of several resolutions, least squares, as in BigVGAN.

    The transforms resolve low pitches finely and high frequencies quickly, as music needs it.

    Args:
        in_channels: Audio channels; given by the autoencoder.
        periods: One member per period, in samples.
        hop_lengths: Samples between the frames of each transform, multiples of ``2 ** (n_octaves - 1)``.
        bins_per_octaves: Bins per octave of each transform.
        n_octaves: Octaves of every transform, below 0.38 of the sample rate.
        filters: Channels of the layers over transforms.
    """

    def __init__(
        self,
        in_channels: PositiveInt = 1,
        *,
        periods: Sequence[PositiveInt] = (2, 3, 5, 7, 11),
        hop_lengths: Sequence[PositiveInt] = (512, 256, 256),
        bins_per_octaves: Sequence[PositiveInt] = (24, 36, 48),
        n_octaves: PositiveInt = 9,
        filters: PositiveInt = 32,
    ) -> None:
        super().__init__("least_squares")
        if len(hop_lengths) != len(bins_per_octaves):
            raise ConfigError(
                "discriminator 'big_vgan': hop_lengths and bins_per_octaves must have the same length, "
                f"got {len(hop_lengths)} and {len(bins_per_octaves)}"
            )
        self.mpd = Members([PeriodDiscriminator(period, in_channels) for period in periods])
        self.cqtd = Members([
            ConstantQDiscriminator(in_channels, filters, hop, n_octaves, bins)
            for hop, bins in zip(hop_lengths, bins_per_octaves, strict=True)
        ])  # fmt: skip

    def judge(self, audio: Tensor) -> list[Judgement]:
        return [*self.mpd(audio), *self.cqtd(audio)]
