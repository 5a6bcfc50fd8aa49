"""Mel spectrograms as a pretransform: a few principal components per frame, and Griffin-Lim for the way back. Nothing to train.

Where no trained autoencoder suits the sounds at hand, this is the representation with the least that can go wrong: it is fitted to a
folder of sounds in a second, and what a classifier or an ear needs to recognise a sound survives it. Phases do not: tonal sounds come
back a little rough. Everything is computed in float32, whatever the precision of the model around it.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from stable_audio_tools.audio.spectrogram import mel_filterbank
from stable_audio_tools.config.base import NonNegativeInt, PositiveInt
from stable_audio_tools.errors import ConfigError
from stable_audio_tools.families import PRETRANSFORMS
from stable_audio_tools.models.layers.tables import Tables
from stable_audio_tools.models.pretransforms.base import Pretransform


@PRETRANSFORMS.register("mel", ratio_key=("hop_length", "frames_per_latent"), width_key="latent_dim", audio_key="channels")
class MelPretransform(Pretransform, Tables):
    """Principal components of mel spectrograms: (B, channels, T) to (B, latent_dim, T / (hop_length * frames_per_latent)) and roughly back.

    Log-mel magnitudes of neighbouring frames are projected on the principal components of the sounds that `fit` saw, which are buffers of
    the state dict. Phases are found by Griffin-Lim (Griffin & Lim 1984, with the momentum of Perraudin et al. 2013).

    Args:
        sample_rate: In Hz; given by the model.
        latent_dim: Number of components D.
        channels: Audio channels.
        n_fft: Window length, in samples.
        hop_length: Samples between frames.
        num_mels: Mel bands M.
        frames_per_latent: Frames that share one latent.
        floor_db: Level counted as silence, relative to a full-scale sine wave.
        whitening: 1 gives all components unit variance, 0 keeps their proportions; in between, the exponent.
        num_iterations: Of Griffin-Lim.
    """

    mean: Tensor
    basis: Tensor
    spread: Tensor
    is_fitted: Tensor
    filterbank: Tensor
    window: Tensor

    def __init__(
        self,
        sample_rate: PositiveInt,
        latent_dim: PositiveInt = 32,
        channels: PositiveInt = 1,
        n_fft: PositiveInt = 1024,
        hop_length: PositiveInt = 256,
        num_mels: PositiveInt = 96,
        frames_per_latent: PositiveInt = 2,
        floor_db: float = -80.0,
        whitening: float = 0.5,
        num_iterations: NonNegativeInt = 64,
    ) -> None:
        super().__init__(enable_grad=False, io_channels=channels, is_discrete=False)
        width = channels * num_mels * frames_per_latent
        if latent_dim > width:
            raise ConfigError(
                f"pretransform 'mel': latent_dim can be at most channels * num_mels * frames_per_latent = {width}, got {latent_dim}"
            )
        self.sample_rate, self.encoded_channels = sample_rate, latent_dim
        self.downsampling_ratio = hop_length * frames_per_latent
        self.n_fft, self.hop_length, self.num_mels, self.frames_per_latent = n_fft, hop_length, num_mels, frames_per_latent
        self.whitening, self.num_iterations = whitening, num_iterations
        self.floor = 10 ** (floor_db / 20)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("basis", torch.eye(width)[:latent_dim])
        self.register_buffer("spread", torch.ones(latent_dim))
        self.register_buffer("is_fitted", torch.zeros(1))
        self.register_tables()

    def tables(self) -> dict[str, Tensor]:
        filterbank = mel_filterbank(self.sample_rate, n_fft=self.n_fft, num_mels=self.num_mels, min_hz=20.0)
        return {"filterbank": filterbank, "window": torch.hann_window(self.n_fft)}

    # ---- spectrograms ----------------------------------------------------------------------------------------------------------

    def _stft(self, rows: Tensor) -> Tensor:
        """(N, T) -> complex (N, F, T / hop), where a full-scale sine wave has magnitude 1."""
        window = self.window.float()
        spectrum = torch.stft(rows, self.n_fft, self.hop_length, window=window, pad_mode="constant", return_complex=True)
        return spectrum[..., : rows.shape[-1] // self.hop_length] * (2 / window.sum())

    def _istft(self, spectrum: Tensor, length: int) -> Tensor:
        """Inverse of `_stft`: (N, F, L) -> (N, T)."""
        window = self.window.float()
        padded = F.pad(spectrum, (0, 1)) * (window.sum() / 2)
        return torch.istft(padded, self.n_fft, self.hop_length, window=window, length=length)

    def log_mel(self, audio: Tensor) -> Tensor:
        """(B, C, T) -> (B, L, C M f): log-mel magnitudes, f frames together; silence reads log(floor)."""
        multiple = self.downsampling_ratio
        audio = F.pad(audio.float(), (0, -audio.shape[-1] % multiple))
        magnitude = self._stft(audio.flatten(0, 1)).abs()  # (B C, F, N)
        mel = (self.filterbank.float() @ magnitude).clamp_min(self.floor).log()  # (B C, M, N)
        return rearrange(mel, "(b c) m (l f) -> b l (c m f)", c=audio.shape[1], f=self.frames_per_latent)

    @torch.no_grad()
    def fit(self, audio: Tensor) -> float:
        """Find the principal components of some sounds.

        Args:
            audio: (N, C, T), representative of what will be encoded.

        Returns:
            Share of the variance that the components keep.
        """
        rows = torch.cat([self.log_mel(batch).flatten(0, 1) for batch in audio.split(64)]).double()  # (N L, W)
        mean = rows.mean(dim=0)
        covariance = (rows - mean).T @ (rows - mean) / len(rows)
        values, vectors = torch.linalg.eigh(covariance)  # rising
        keep = len(self.spread)
        kept = values.flip(0)[:keep].clamp_min(1e-12)
        deviation = kept.sqrt()
        overall = deviation.square().mean().sqrt()
        self.mean.copy_(mean)
        self.basis.copy_(vectors.flip(1)[:, :keep].T)
        self.spread.copy_(deviation**self.whitening * overall ** (1 - self.whitening))
        self.is_fitted.fill_(1.0)
        return float(kept.sum() / values.clamp_min(0).sum().clamp_min(1e-12))

    # ---- the pretransform ------------------------------------------------------------------------------------------------------

    def encode(self, x: Tensor, **kwargs: Any) -> Tensor:
        self._require_fit()
        return (((self.log_mel(x) - self.mean.float()) @ self.basis.float().T) / self.spread.float()).transpose(1, 2)  # (B, D, L)

    def decode(self, z: Tensor, **kwargs: Any) -> Tensor:
        self._require_fit()
        rows = (z.float().transpose(1, 2) * self.spread.float()) @ self.basis.float() + self.mean.float()  # (B, L, W)
        mel = rearrange(rows, "b l (c m f) -> (b c) m (l f)", c=self.io_channels, f=self.frames_per_latent).clamp(max=1.0).exp()
        audio = self._phase(self._linear((mel - self.floor).clamp_min(0)))
        return rearrange(audio, "(b c) t -> b c t", c=self.io_channels)

    def _require_fit(self) -> None:
        if not self.is_fitted.is_meta and not bool(self.is_fitted):
            raise ConfigError("pretransform 'mel' has not been fitted: call fit(audio), or load weights that were saved after it")

    def _linear(self, mel: Tensor) -> Tensor:
        """Non-negative magnitudes (N, F, L) whose mel bands are ``mel`` (N, M, L): multiplicative updates, Lee & Seung 2001."""
        filterbank = self.filterbank.float()
        projected = filterbank.T @ mel
        magnitude = projected / (filterbank.T @ filterbank.sum(dim=1, keepdim=True) + 1e-9)
        for _ in range(30):
            magnitude = magnitude * projected / (filterbank.T @ (filterbank @ magnitude) + 1e-9)
        return magnitude

    def _phase(self, magnitude: Tensor) -> Tensor:
        """Audio (N, T) whose spectrogram is close to ``magnitude`` (N, F, L)."""
        length = magnitude.shape[-1] * self.hop_length
        # Fixed random phases to begin with: the same latents always give the same audio.
        generator = torch.Generator().manual_seed(0)
        start = torch.rand(magnitude.shape[1:], generator=generator).to(magnitude) * (2 * torch.pi)
        phase = torch.polar(torch.ones_like(start), start)
        previous = torch.zeros((), dtype=phase.dtype, device=magnitude.device)
        for _ in range(self.num_iterations):
            spectrum = self._stft(self._istft(magnitude * phase, length))
            ahead = spectrum + 0.99 * (spectrum - previous)
            phase, previous = ahead / ahead.abs().clamp_min(1e-9), spectrum
        return self._istft(magnitude * phase, length)
