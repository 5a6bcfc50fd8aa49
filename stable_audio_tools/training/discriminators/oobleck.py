"""The discriminator of the first Oobleck autoencoders: three sample rates and five periods, each a small convolutional network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stable_audio_tools.config.base import PositiveInt
from stable_audio_tools.families import DISCRIMINATORS
from stable_audio_tools.models.layers.conv import WNConv1d, WNConv2d
from stable_audio_tools.training.discriminators.base import GAMES, Discriminator

PERIODS = (2, 3, 5, 7, 11)
WIDTHS = (32, 64, 128, 256)
KERNEL, STRIDE = 15, 4


class SharedConvNet(nn.Module):
    """Four strided convolutions and a score, over time, or over time and phase.

    Args:
        in_channels: Channels C of the input.
        is_folded: Whether the input is (B, C, T / period, period) instead of (B, C, T).
    """

    def __init__(self, in_channels: int, *, is_folded: bool) -> None:
        super().__init__()
        conv, plain = (WNConv2d, nn.Conv2d) if is_folded else (WNConv1d, nn.Conv1d)
        layers: list[nn.Module] = []
        for width_in, width_out in zip((in_channels, *WIDTHS), WIDTHS, strict=False):
            layers += [conv(width_in, width_out, KERNEL, stride=STRIDE, padding=KERNEL // 2), nn.SiLU()]
        self.net = nn.Sequential(*layers, plain(WIDTHS[-1], 1, 1))

    def forward(self, x: Tensor) -> list[Tensor]:
        """The output of every convolution, before its activation; the last one is the score."""
        outputs: list[Tensor] = []
        for layer in self.net:
            x = layer(x)
            if not isinstance(layer, nn.SiLU):
                outputs.append(x)
        return outputs


class MultiScaleDiscriminator(nn.Module):
    """One network for the audio, one at half of its rate, one at a quarter."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(SharedConvNet(in_channels, is_folded=False) for _ in range(3))

    def forward(self, audio: Tensor) -> list[list[Tensor]]:  # (B, C, T)
        results: list[list[Tensor]] = []
        for layer in self.layers:
            results.append(layer(audio))
            audio = F.avg_pool1d(audio, 2)  # (B, C, T / 2)
        return results


class MultiPeriodDiscriminator(nn.Module):
    """One network per period, which sees the audio folded into rows of that length."""

    def __init__(self, in_channels: int, periods: Sequence[int]) -> None:
        super().__init__()
        self.periods = tuple(periods)
        self.layers = nn.ModuleList(SharedConvNet(in_channels, is_folded=True) for _ in periods)

    def forward(self, audio: Tensor) -> list[list[Tensor]]:  # (B, C, T)
        return [layer(fold(audio, period)) for layer, period in zip(self.layers, self.periods, strict=True)]


def fold(audio: Tensor, period: int) -> Tensor:
    """(B, C, T) -> (B, C, ceil(T / period), period), with silence at the end."""
    return F.pad(audio, (0, -audio.shape[-1] % period)).unflatten(-1, (-1, period))


class _Both(nn.Module):
    """Keeps the published names of the weights."""

    def __init__(self, *discriminators: nn.Module) -> None:
        super().__init__()
        self.discriminators = nn.ModuleList(discriminators)

    def forward(self, audio: Tensor) -> list[list[Tensor]]:
        return [outputs for discriminator in self.discriminators for outputs in discriminator(audio)]


@DISCRIMINATORS.register("oobleck")
class OobleckDiscriminator(Discriminator):
    """Convolutions over audio at three rates and folded by five periods, which vote with the sum of their mean scores.

    Hinge loss; feature matching is the sum over all layers.

    Args:
        in_channels: Audio channels; given by the autoencoder.
    """

    def __init__(self, in_channels: PositiveInt = 1) -> None:
        super().__init__()
        self.multi_discriminator = _Both(MultiScaleDiscriminator(in_channels), MultiPeriodDiscriminator(in_channels, PERIODS))

    def discriminator_loss(self, reals: Tensor, fakes: Tensor) -> Tensor:
        return GAMES["hinge"].discriminator(vote(self.multi_discriminator(reals)), vote(self.multi_discriminator(fakes.detach())))

    def generator_losses(self, reals: Tensor, fakes: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            real = self.multi_discriminator(reals)
        fake = self.multi_discriminator(fakes)
        matching = [(r - f).abs().mean() for rs, fs in zip(real, fake, strict=True) for r, f in zip(rs, fs, strict=True)]
        return GAMES["hinge"].generator(vote(real), vote(fake)), torch.stack(matching).sum()


def vote(outputs: list[list[Tensor]]) -> Tensor:
    """The networks' outputs -> one score per item, (B,)."""
    return torch.stack([layers[-1].flatten(1).mean(dim=1) for layers in outputs]).sum(dim=0)
