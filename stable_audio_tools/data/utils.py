"""Kept import path: the operations of `stable_audio_tools.audio` on one clip, as modules."""

from __future__ import annotations

from torch import Tensor, nn

from stable_audio_tools.audio.channels import to_mono, to_stereo
from stable_audio_tools.audio.crop import normalized_crop


class Mono(nn.Module):
    """Averages the channels: (C, T) -> (1, T); a clip without channels (T,) stays as it is."""

    def forward(self, signal: Tensor) -> Tensor:
        return to_mono(signal) if signal.dim() > 1 else signal


class Stereo(nn.Module):
    """Two channels, by doubling one or taking the first two: (T,) or (C, T) -> (2, T)."""

    def forward(self, signal: Tensor) -> Tensor:
        return to_stereo(signal if signal.dim() > 1 else signal[None])


class PadCrop_Normalized_T(nn.Module):  # noqa: N801
    """Cuts a clip to a length, or pads it with silence, and says where the crop lies.

    Args:
        n_samples: Length of the crop, in samples.
        sample_rate: In Hz.
        randomize: Draw the start from the module ``random``; otherwise crops begin at 0.
    """

    def __init__(self, n_samples: int, sample_rate: int, randomize: bool = True) -> None:
        super().__init__()
        self.n_samples = n_samples
        self.sample_rate = sample_rate
        self.randomize = randomize

    def forward(self, source: Tensor) -> tuple[Tensor, float, float, int, int, Tensor]:
        """(C, T) -> crop (C, n_samples), its start and end as fractions of the clip, seconds_start, seconds_total, mask (n_samples,)."""
        crop = normalized_crop(source, self.n_samples, self.sample_rate, randomize=self.randomize)
        return crop.audio, crop.t_start, crop.t_end, crop.seconds_start, crop.seconds_total, crop.padding_mask


__all__ = ["Mono", "PadCrop_Normalized_T", "Stereo"]
