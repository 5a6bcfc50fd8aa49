"""Spectral encoder and decoder: ConvNeXt blocks over spectrogram frames, with an inverse STFT at the end.

Everything learned runs at frame rate, so this is an order of magnitude cheaper than convolutions over samples: an autoencoder that a
laptop trains in an hour. The decoder is that of Vocos, Siuzdak 2023, arXiv:2306.00814; the encoder mirrors it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from stable_audio_tools.config.base import PositiveInt
from stable_audio_tools.errors import ConfigError
from stable_audio_tools.families import DECODERS, ENCODERS
from stable_audio_tools.models.layers.convnext import ConvNeXtBlock
from stable_audio_tools.models.layers.parameters import without_autocast
from stable_audio_tools.models.layers.tables import Tables


def _stft(audio: Tensor, n_fft: int, hop_length: int, window: Tensor) -> Tensor:
    """(B, C, T) -> complex (B, C, n_fft / 2 + 1, T / hop), frames centred on ``hop * (l + 1/2)``."""
    pad = (n_fft - hop_length) // 2
    rows = F.pad(audio.reshape(-1, audio.shape[-1]).float(), (pad, pad))
    spectrum = torch.stft(rows, n_fft, hop_length, n_fft, window, center=False, return_complex=True)
    return spectrum.view(*audio.shape[:2], *spectrum.shape[1:])


def _istft(spectrum: Tensor, n_fft: int, hop_length: int, window: Tensor) -> Tensor:
    """Inverse of `_stft` by windowed overlap-add: (B, C, n_fft / 2 + 1, L) -> (B, C, L * hop)."""
    batch, channels, _, frames = spectrum.shape
    segments = torch.fft.irfft(spectrum.flatten(0, 1), n_fft, dim=1) * window[:, None]  # (B * C, n_fft, L)
    length = (frames - 1) * hop_length + n_fft
    pad = (n_fft - hop_length) // 2

    def overlap_add(columns: Tensor) -> Tensor:
        return F.fold(columns, (1, length), (1, n_fft), stride=(1, hop_length))[:, 0, 0, pad : length - pad]

    weight = overlap_add(window.square()[None, :, None].expand(1, -1, frames))
    return (overlap_add(segments) / weight.clamp(min=1e-4)).view(batch, channels, -1)


def _check(n_fft: int, hop_length: int, strides: Sequence[int]) -> None:
    if n_fft % 2 or not 0 < hop_length <= n_fft // 2 or hop_length % 2 or any(stride < 2 for stride in strides):
        raise ConfigError(
            f"spectral: n_fft must be even, hop_length even and in (0, n_fft / 2], strides at least 2, got {n_fft}, {hop_length} and "
            f"{list(strides)}"
        )


@ENCODERS.register("spectral")
class SpectralEncoder(Tables):
    """ConvNeXt blocks on a spectrogram: (B, in_channels, T) -> (B, latent_dim, T / (hop_length * prod(strides))).

    Args:
        in_channels: Audio channels.
        latent_dim: Channels of the output. A ``vae`` bottleneck needs twice the model's ``latent_dim`` (mean and scale).
        dim: Width.
        depth: ConvNeXt blocks after each stride.
        n_fft: Window length, in samples.
        hop_length: Samples between frames.
        strides: Further downsampling, of frames.
    """

    window: Tensor

    def __init__(
        self,
        in_channels: PositiveInt = 1,
        latent_dim: PositiveInt = 32,
        dim: PositiveInt = 256,
        depth: PositiveInt = 3,
        n_fft: PositiveInt = 1024,
        hop_length: PositiveInt = 256,
        strides: Sequence[PositiveInt] = (2,),
    ) -> None:
        super().__init__()
        _check(n_fft, hop_length, strides)
        self.n_fft, self.hop_length = n_fft, hop_length
        self.register_tables()
        layers: list[nn.Module] = [nn.Conv1d(3 * in_channels * (n_fft // 2 + 1), dim, 1)]
        layers += [ConvNeXtBlock(dim) for _ in range(depth)]
        for stride in strides:
            layers.append(nn.Conv1d(dim, dim, 2 * stride, stride, padding=math.ceil(stride / 2)))
            layers += [ConvNeXtBlock(dim) for _ in range(depth)]
        layers.append(nn.Conv1d(dim, latent_dim, 1))
        self.layers = nn.Sequential(*layers)

    def tables(self) -> dict[str, Tensor]:
        return {"window": torch.hann_window(self.n_fft)}

    def forward(self, audio: Tensor) -> Tensor:  # (B, C, T) -> (B, W, L)
        with without_autocast(audio.device):
            spectrum = _stft(audio, self.n_fft, self.hop_length, self.window.float())
            magnitude = spectrum.abs().clamp(min=1e-5)
            # The logarithm is what ears and losses look at; the compressed complex values keep the phase.
            compressed = spectrum * magnitude.pow(-0.7)
            features = torch.cat([magnitude.log() * 0.2, compressed.real, compressed.imag], dim=1)
        return self.layers(rearrange(features, "b c f l -> b (c f) l").to(audio.dtype))


@DECODERS.register("spectral")
class SpectralDecoder(Tables):
    """ConvNeXt blocks that end in a spectrogram: (B, latent_dim, L) -> (B, out_channels, L * hop_length * prod(strides)).

    Args:
        out_channels: Audio channels.
        latent_dim: Channels of the latents.
        dim: Width.
        depth: ConvNeXt blocks before each stride, and after the last.
        n_fft: Window length, in samples.
        hop_length: Samples between frames.
        strides: The encoder's, in the encoder's order.
    """

    window: Tensor

    def __init__(
        self,
        out_channels: PositiveInt = 1,
        latent_dim: PositiveInt = 32,
        dim: PositiveInt = 256,
        depth: PositiveInt = 3,
        n_fft: PositiveInt = 1024,
        hop_length: PositiveInt = 256,
        strides: Sequence[PositiveInt] = (2,),
    ) -> None:
        super().__init__()
        _check(n_fft, hop_length, strides)
        self.n_fft, self.hop_length, self.out_channels = n_fft, hop_length, out_channels
        self.register_tables()
        layers: list[nn.Module] = [nn.Conv1d(latent_dim, dim, 7, padding=3)]
        layers += [ConvNeXtBlock(dim) for _ in range(depth)]
        for stride in reversed(strides):
            layers.append(nn.ConvTranspose1d(dim, dim, 2 * stride, stride, padding=math.ceil(stride / 2), output_padding=stride % 2))
            layers += [ConvNeXtBlock(dim) for _ in range(depth)]
        self.layers = nn.Sequential(*layers)
        self.head = nn.Conv1d(dim, 2 * out_channels * (n_fft // 2 + 1), 1)

    def tables(self) -> dict[str, Tensor]:
        return {"window": torch.hann_window(self.n_fft)}

    def forward(self, latents: Tensor) -> Tensor:  # (B, D, L) -> (B, C, T)
        values = rearrange(self.head(self.layers(latents)), "b (p c f) l -> p b c f l", p=2, c=self.out_channels)
        with without_autocast(latents.device):
            log_magnitude, phase = values.float()
            spectrum = torch.polar(log_magnitude.clamp(max=8.0).exp(), phase)
            return _istft(spectrum, self.n_fft, self.hop_length, self.window.float()).to(latents.dtype)
