"""Distances between spectrograms at several resolutions.

Source: Yamamoto et al. 2020, arXiv:1910.11480, and Steinmetz & Reiss 2020 (auraloss), with two differences that published training runs
had: spectral convergence is a ratio per signal rather than one over the whole batch, and there is a phase term on complex spectra.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from stable_audio_tools.config.base import NonNegativeFloat, PositiveInt
from stable_audio_tools.errors import ConfigError
from stable_audio_tools.families import LOSSES
from stable_audio_tools.registry import Options
from stable_audio_tools.training.losses.filterbanks import chroma, slaney_mel
from stable_audio_tools.training.losses.weighting import AWeighting

IGNORED = {"device": "losses follow their inputs"}


@LOSSES.register("stft", ignored=IGNORED, rules=(("needs", "scale", "mel", "n_bins"),))
class STFTLoss(nn.Module):
    """Weighted sum of distances between two spectrograms of one resolution.

    Args:
        fft_size: FFT length, in samples.
        hop_size: Samples between frames.
        win_length: Window length, in samples.
        sample_rate: In Hz; needed by ``perceptual_weighting`` and ``scale``.
        scale: Sum the magnitudes into ``mel`` bands or ``chroma`` pitch classes first.
        n_bins: How many of them; 12 pitch classes unless given.
        w_sc: Weight of spectral convergence, ``||y - x|| / ||y||`` of magnitudes.
        w_log_mag: Weight of the distance of log magnitudes.
        w_lin_mag: Weight of the distance of magnitudes.
        w_phs: Weight of the distance of complex values, relative to their magnitudes.
        perceptual_weighting: A-weight both signals first.
        eps: Smallest power, for the square root and logarithm.
        mag_distance: Distance of magnitudes.
        log_eps: Added before the logarithm.
        log_fac: Factor before the logarithm.
        window: Name of a window function of torch.
        scale_invariance: Give the second spectrogram the gain that fits the first one best.
    """

    window: Tensor
    bands: Tensor

    def __init__(
        self,
        fft_size: PositiveInt = 1024,
        hop_size: PositiveInt = 256,
        win_length: PositiveInt = 1024,
        sample_rate: PositiveInt | None = None,
        scale: Literal["mel", "chroma"] | None = None,
        n_bins: PositiveInt | None = None,
        *,
        w_sc: float = 1.0,
        w_log_mag: float = 1.0,
        w_lin_mag: float = 0.0,
        w_phs: float = 0.0,
        perceptual_weighting: bool = False,
        eps: NonNegativeFloat = 1e-8,
        mag_distance: Literal["L1", "L2"] = "L1",
        log_eps: NonNegativeFloat = 0.0,
        log_fac: float = 1.0,
        window: Literal["hann_window", "hamming_window", "blackman_window", "bartlett_window", "kaiser_window"] = "hann_window",
        scale_invariance: bool = False,
    ) -> None:
        super().__init__()
        self.fft_size, self.hop_size, self.win_length = fft_size, hop_size, win_length
        self.w_sc, self.w_log_mag, self.w_lin_mag, self.w_phs = w_sc, w_log_mag, w_lin_mag, w_phs
        self.eps, self.log_eps, self.log_fac = eps, log_eps, log_fac
        self.distance = nn.L1Loss() if mag_distance == "L1" else nn.MSELoss()
        self.scale, self.scale_invariance = scale, scale_invariance
        self.register_buffer("window", getattr(torch, window)(win_length), persistent=False)
        if scale is not None:
            self.register_buffer("bands", _bands(scale, sample_rate, fft_size, n_bins), persistent=False)
        self.prefilter: nn.Module | None = None
        if perceptual_weighting:
            if sample_rate is None:
                raise ConfigError("STFT loss: perceptual_weighting needs a sample_rate")
            self.prefilter = AWeighting(sample_rate)

    def spectrum(self, audio: Tensor) -> Tensor:
        """(B, C, T) -> complex (B * C, frequencies, frames)."""
        rows = audio.reshape(-1, audio.shape[-1]).float()
        return torch.stft(rows, self.fft_size, self.hop_size, self.win_length, self.window, return_complex=True)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Distance between (B, C, T) and (B, C, T); the second one is the yardstick of spectral convergence."""
        with torch.autocast(x.device.type, enabled=False):
            x, y = x.float(), y.float()
            if self.prefilter is not None:
                x, y = self.prefilter(x), self.prefilter(y)
            x_stft, y_stft = self.spectrum(x), self.spectrum(y)
            x_mag, y_mag = self.magnitude(x_stft), self.magnitude(y_stft)
            if self.scale is not None:
                x_mag, y_mag = self.bands @ x_mag, self.bands @ y_mag  # (B C, bands, frames)
            if self.scale_invariance:
                y_mag = y_mag * ((x_mag * y_mag).sum((-2, -1), keepdim=True) / y_mag.square().sum((-2, -1), keepdim=True))
            loss = x_mag.new_zeros(())
            if self.w_sc:
                loss = loss + self.w_sc * ((y_mag - x_mag).flatten(1).norm(dim=1) / y_mag.flatten(1).norm(dim=1)).mean()
            if self.w_log_mag:
                loss = loss + self.w_log_mag * self.distance(self.log(x_mag), self.log(y_mag))
            if self.w_lin_mag:
                loss = loss + self.w_lin_mag * self.distance(x_mag, y_mag)
            if self.w_phs:
                loss = loss + self.w_phs * ((x_stft - y_stft).abs() / (0.5 * (x_stft.abs() + y_stft.abs()) + 1e-7)).mean()
            return loss

    def magnitude(self, spectrum: Tensor) -> Tensor:
        """Complex -> magnitude, at least ``sqrt(eps)``."""
        return (spectrum.real.square() + spectrum.imag.square()).clamp(min=self.eps).sqrt()

    def log(self, magnitude: Tensor) -> Tensor:
        """Log magnitude."""
        return torch.log(self.log_fac * magnitude + self.log_eps)


def _bands(scale: str, sample_rate: int | None, fft_size: int, n_bins: int | None) -> Tensor:
    if sample_rate is None:
        raise ConfigError(f"STFT loss: scale {scale!r} needs a sample_rate")
    if scale == "chroma":
        return chroma(sample_rate, fft_size, n_bins or 12)
    if n_bins is None:
        raise ConfigError("STFT loss: scale 'mel' needs n_bins, the number of bands")
    return slaney_mel(sample_rate, fft_size, n_bins)


@LOSSES.register("mel_stft", ignored=IGNORED)
class MelSTFTLoss(STFTLoss):
    """Weighted sum of distances between two mel spectrograms of one resolution.

    Args:
        sample_rate: In Hz; given by the model.
        fft_size: FFT length, in samples.
        hop_size: Samples between frames.
        win_length: Window length, in samples.
        n_mels: Bands.
        **stft: Options of `STFTLoss`.
    """

    def __init__(
        self,
        sample_rate: PositiveInt,
        fft_size: PositiveInt = 1024,
        hop_size: PositiveInt = 256,
        win_length: PositiveInt = 1024,
        n_mels: PositiveInt = 128,
        **stft: Annotated[Any, Options("STFTLoss")],
    ) -> None:
        super().__init__(fft_size, hop_size, win_length, sample_rate, "mel", n_mels, **stft)


@LOSSES.register(
    "mrstft", ignored=IGNORED, rules=(("lengths", "fft_sizes", "hop_sizes", "win_lengths"), ("at_most", "win_lengths", "fft_sizes"))
)
class MultiResolutionSTFTLoss(nn.Module):
    """Distance of spectra, averaged over several resolutions.

    Args:
        fft_sizes: FFT length of each, in samples.
        hop_sizes: Samples between frames, of each.
        win_lengths: Window length of each, in samples.
        sample_rate: In Hz; given by the model.
        scale: Sum the magnitudes into ``mel`` bands or ``chroma`` pitch classes first.
        n_bins: Mel bands of each; without effect on others.
        **stft: Options of every `STFTLoss`.
    """

    def __init__(
        self,
        *,
        fft_sizes: Sequence[PositiveInt] = (1024, 2048, 512),
        hop_sizes: Sequence[PositiveInt] = (120, 240, 50),
        win_lengths: Sequence[PositiveInt] = (600, 1200, 240),
        sample_rate: PositiveInt | None = None,
        scale: Literal["mel", "chroma"] | None = None,
        n_bins: Sequence[PositiveInt] | None = None,
        **stft: Annotated[Any, Options("STFTLoss")],
    ) -> None:
        super().__init__()
        bins = list(n_bins) if n_bins is not None and scale == "mel" else [None] * len(fft_sizes)
        if len(bins) != len(fft_sizes):
            raise ConfigError(f"multi-resolution STFT loss: n_bins has {len(bins)} items, but there are {len(fft_sizes)} resolutions")
        if not len(fft_sizes) == len(hop_sizes) == len(win_lengths) > 0:
            raise ConfigError(
                f"multi-resolution STFT loss: fft_sizes, hop_sizes and win_lengths must have the same length, got {len(fft_sizes)}, "
                f"{len(hop_sizes)} and {len(win_lengths)}"
            )
        self.stft_losses = nn.ModuleList(
            STFTLoss(fft, hop, win, sample_rate, scale, num_bins, **stft)
            for fft, hop, win, num_bins in zip(fft_sizes, hop_sizes, win_lengths, bins, strict=True)
        )

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Distance between (B, C, T) and (B, C, T)."""
        return torch.stack([loss(x, y) for loss in self.stft_losses]).mean()


@LOSSES.register("sum_and_difference_stft", ignored=IGNORED)
class SumAndDifferenceSTFTLoss(nn.Module):
    """Mean of the distances between sums and between differences of the channels of stereo signals.

    Source: Steinmetz et al. 2020, arXiv:2010.10291.

    Args:
        w_sum: Weight of the sum's.
        w_diff: Weight of the difference's.
        **mrstft: Options of `MultiResolutionSTFTLoss`.
    """

    def __init__(self, *, w_sum: float = 1.0, w_diff: float = 1.0, **mrstft: Annotated[Any, Options("MultiResolutionSTFTLoss")]) -> None:
        super().__init__()
        self.w_sum, self.w_diff = w_sum, w_diff
        self.mrstft = MultiResolutionSTFTLoss(**mrstft)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Distance between (B, 2, T) and (B, 2, T)."""
        if x.shape[1] != 2 or y.shape[1] != 2:
            raise ValueError(f"sum-and-difference loss compares stereo signals, got {x.shape[1]} and {y.shape[1]} channels")
        total = self.mrstft(x[:, :1] + x[:, 1:], y[:, :1] + y[:, 1:]) * self.w_sum
        return (total + self.mrstft(x[:, :1] - x[:, 1:], y[:, :1] - y[:, 1:]) * self.w_diff) / 2
