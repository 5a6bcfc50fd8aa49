"""Kept import path. Pictures of sounds live in `stable_audio_tools.audio.plot`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from stable_audio_tools.audio.plot import spectrogram_image

if TYPE_CHECKING:
    from PIL import Image


def audio_spectrogram_image(
    waveform: Tensor, power: float = 2.0, sample_rate: int = 48000, figsize: tuple[float, float] = (5, 4)
) -> Image.Image:
    """A picture of a sound: its waveform above its log-mel spectrogram.

    Args:
        waveform: (C, T) or (T,)
        power: Has no effect: the picture is in dB.
        sample_rate: In Hz.
        figsize: Width and height in inches, at 100 dots each.
    """
    from PIL import Image

    with tempfile.TemporaryDirectory() as folder:
        path = spectrogram_image(waveform, sample_rate, Path(folder) / "picture.png", size_inches=figsize)
        return Image.open(path).convert("RGB")
