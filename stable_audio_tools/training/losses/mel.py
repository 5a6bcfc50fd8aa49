"""Distances between mel spectrograms, at several resolutions. Source: Kumar et al. 2023, arXiv:2306.06546."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stable_audio_tools.config.base import NonNegativeFloat, PositiveFloat, PositiveInt
from stable_audio_tools.errors import ConfigError
from stable_audio_tools.families import LOSSES
from stable_audio_tools.training.losses.filterbanks import slaney_mel


@LOSSES.register("mel", rules=(("lengths", "n_mels", "window_lengths", "mel_fmin", "mel_fmax"),))
class MelSpectrogramLoss(nn.Module):
    """Distance of mel spectrograms and of their logarithms, summed over several resolutions.

    Args:
        sample_rate: In Hz; given by the model.
        n_mels: Bands of each resolution.
        window_lengths: Window length of each, in samples; the hop is a quarter of it.
        pow: Exponent inside the logarithm.
        log_weight: Weight of the distance of base-10 logarithms.
        mag_weight: Weight of the distance of magnitudes.
        clamp_eps: Smallest magnitude, before the exponent.
        mel_fmin: Where the bands of each begin, in Hz; 0 unless given.
        mel_fmax: Where they end; None is half the sample rate.
    """

    def __init__(
        self,
        sample_rate: PositiveInt,
        n_mels: Sequence[PositiveInt] = (150, 80),
        window_lengths: Sequence[PositiveInt] = (2048, 512),
        pow: float = 2.0,  # noqa: A002
        log_weight: NonNegativeFloat = 1.0,
        mag_weight: NonNegativeFloat = 1.0,
        clamp_eps: PositiveFloat = 1e-5,
        mel_fmin: Sequence[NonNegativeFloat] | None = None,
        mel_fmax: Sequence[PositiveFloat | None] | None = None,
    ) -> None:
        super().__init__()
        if not len(n_mels) == len(window_lengths) > 0:
            raise ConfigError(
                f"loss 'mel': n_mels and window_lengths must have the same length, got {len(n_mels)} and {len(window_lengths)}"
            )
        lows, highs = mel_fmin or [0.0] * len(n_mels), mel_fmax or [None] * len(n_mels)
        if not len(lows) == len(highs) == len(n_mels):
            raise ConfigError(f"loss 'mel': mel_fmin and mel_fmax need a number for each of the {len(n_mels)} n_mels")
        self.pow, self.log_weight, self.mag_weight, self.clamp_eps = pow, log_weight, mag_weight, clamp_eps
        self.window_lengths = tuple(window_lengths)
        for index, (mels, length) in enumerate(zip(n_mels, window_lengths, strict=True)):
            bands = slaney_mel(sample_rate, length, mels, lows[index], highs[index])
            self.register_buffer(f"bands_{index}", bands, persistent=False)
            self.register_buffer(f"window_{index}", torch.hann_window(length), persistent=False)

    def mel(self, audio: Tensor, index: int) -> Tensor:
        """Mel magnitudes of one resolution: (B, C, T) -> (B C, M, frames)."""
        length = self.window_lengths[index]
        rows = audio.reshape(-1, audio.shape[-1]).float()
        window, bands = getattr(self, f"window_{index}").float(), getattr(self, f"bands_{index}").float()
        return bands @ torch.stft(rows, length, length // 4, window=window, return_complex=True).abs()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Distance between (B, C, T) and (B, C, T)."""
        total = x.new_zeros((), dtype=torch.float32)
        with torch.autocast(x.device.type, enabled=False):
            for index in range(len(self.window_lengths)):
                x_mel, y_mel = self.mel(x, index), self.mel(y, index)
                logs = [mel.clamp_min(self.clamp_eps).log10() * self.pow for mel in (x_mel, y_mel)]
                total = total + self.log_weight * (logs[0] - logs[1]).abs().mean() + self.mag_weight * (x_mel - y_mel).abs().mean()
        return total
