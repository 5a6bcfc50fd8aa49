"""The multi-scale STFT discriminator of EnCodec. Source: Defossez et al. 2022, arXiv:2210.13438."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from stable_audio_tools.config.base import PositiveInt
from stable_audio_tools.errors import ConfigError
from stable_audio_tools.families import DISCRIMINATORS
from stable_audio_tools.models.layers.conv import WNConv2d
from stable_audio_tools.training.discriminators.base import EnsembleDiscriminator, Judgement, Members


class _NormConv2d(nn.Module):
    """A weight-normalised convolution under the key ``conv``."""

    def __init__(self, width_in: int, width_out: int, kernel: tuple[int, int], dilation: int = 1) -> None:
        super().__init__()
        padding = (dilation * (kernel[0] - 1) // 2, (kernel[1] - 1) // 2)
        self.conv = WNConv2d(width_in, width_out, kernel, padding=padding, dilation=(dilation, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class _Spectrogram(nn.Module):
    window: Tensor

    def __init__(self, n_fft: int, hop_length: int, win_length: int) -> None:
        super().__init__()
        self.n_fft, self.hop_length, self.win_length = n_fft, hop_length, win_length
        self.register_buffer("window", torch.hann_window(win_length))

    def forward(self, audio: Tensor) -> Tensor:  # (B, C, T) -> complex (B, C, frequencies, frames)
        rows = audio.reshape(-1, audio.shape[-1]).float()
        spectrum = torch.stft(rows, self.n_fft, self.hop_length, self.win_length, self.window.float(), center=False, return_complex=True)
        return (spectrum / self.window.float().square().sum().sqrt()).view(*audio.shape[:2], *spectrum.shape[1:])


class DiscriminatorSTFT(nn.Module):
    """Convolutions over one complex spectrogram.

    Args:
        filters: Channels of the first layer.
        in_channels: Audio channels.
        out_channels: Channels of the score.
        n_fft: FFT length, in samples.
        hop_length: Samples between frames.
        win_length: Window length, in samples.
        filters_scale: Growth of the channels per layer.
        max_filters: Most channels.
        spec_scale_pow: If not 0, magnitudes are raised to ``1 + spec_scale_pow``.
    """

    def __init__(
        self,
        filters: int,
        in_channels: int = 1,
        out_channels: int = 1,
        n_fft: int = 1024,
        hop_length: int = 256,
        win_length: int = 1024,
        *,
        filters_scale: int = 1,
        max_filters: int = 1024,
        spec_scale_pow: float = 0.0,
    ) -> None:
        super().__init__()
        self.spec_transform = _Spectrogram(n_fft, hop_length, win_length)
        self.spec_scale_pow = spec_scale_pow
        width = min(filters_scale * filters, max_filters)
        self.convs = nn.ModuleList([_NormConv2d(2 * in_channels, filters, (3, 9))])
        previous = filters
        for index, dilation in enumerate((1, 2, 4)):
            width = min(filters_scale ** (index + 1) * filters, max_filters)
            self.convs.append(_NormConv2d(previous, width, (3, 9), dilation))
            previous = width
        width = min(filters_scale**4 * filters, max_filters)
        self.convs.append(_NormConv2d(previous, width, (3, 3)))
        self.conv_post = _NormConv2d(width, out_channels, (3, 3))

    def forward(self, audio: Tensor) -> Judgement:
        """(B, C, T) -> score (B, 1, frames, frequencies) and the features of every layer."""
        z = self.spec_transform(audio)
        if self.spec_scale_pow:
            z = z * (z.abs() + 1e-6).pow(self.spec_scale_pow)
        z = rearrange(torch.cat([z.real, z.imag], dim=1), "b c f t -> b c t f")
        features: list[Tensor] = []
        for conv in self.convs:
            z = F.leaky_relu(conv(z), 0.2)
            features.append(z)
        return Judgement(self.conv_post(z), features)


@DISCRIMINATORS.register("encodec", rules=(("lengths", "n_ffts", "hop_lengths", "win_lengths"), ("at_most", "win_lengths", "n_ffts")))
class EncodecDiscriminator(EnsembleDiscriminator):
    """Convolutions over complex spectrograms of several resolutions; everything averaged over resolutions.

    Args:
        filters: Channels of the first layers.
        in_channels: Audio channels; given by the autoencoder.
        n_ffts: FFT length of each resolution, in samples.
        hop_lengths: Samples between frames, of each.
        win_lengths: Window length of each, in samples.
        normalize_losses: Divide each feature distance by the mean magnitude of the real feature.
        loss_type: The game: ``hinge``, or ``rpgan``, in which every fake is compared with its real.
        out_channels: Channels of the score.
        filters_scale: Growth of the channels per layer.
        max_filters: Most channels.
        spec_scale_pow: If not 0, magnitudes are raised to ``1 + spec_scale_pow``.
    """

    def __init__(
        self,
        filters: PositiveInt = 32,
        in_channels: PositiveInt = 1,
        *,
        n_ffts: Sequence[PositiveInt] = (1024, 2048, 512),
        hop_lengths: Sequence[PositiveInt] = (256, 512, 128),
        win_lengths: Sequence[PositiveInt] = (1024, 2048, 512),
        normalize_losses: bool = False,
        loss_type: Literal["hinge", "rpgan"] = "hinge",
        out_channels: PositiveInt = 1,
        filters_scale: PositiveInt = 1,
        max_filters: PositiveInt = 1024,
        spec_scale_pow: float = 0.0,
    ) -> None:
        super().__init__(loss_type, normalize_losses=normalize_losses)
        if not len(n_ffts) == len(hop_lengths) == len(win_lengths) > 0:
            raise ConfigError(
                f"discriminator 'encodec': n_ffts, hop_lengths and win_lengths must have the same length, got {len(n_ffts)}, "
                f"{len(hop_lengths)} and {len(win_lengths)}"
            )
        self.discriminators = Members([
            DiscriminatorSTFT(
                filters, in_channels, out_channels, fft, hop, win,
                filters_scale=filters_scale, max_filters=max_filters, spec_scale_pow=spec_scale_pow,
            )
            for fft, hop, win in zip(n_ffts, hop_lengths, win_lengths, strict=True)
        ])  # fmt: skip

    def judge(self, audio: Tensor) -> list[Judgement]:
        return self.discriminators(audio)
