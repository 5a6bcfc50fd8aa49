"""Spectrogram frames as channels, for U-Nets that work on spectra."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn


class STFT(nn.Module):
    """(B, C, T) to (B, 2 C F, T / hop_length) and exactly back, with F = num_fft // 2 + 1 frequencies.

    First come the magnitudes of all channels, then the phases; or real, then imaginary parts.

    Args:
        num_fft: Window length of the transform, in samples; odd, so that T samples make T / hop_length frames.
        hop_length: Samples between frames.
        window_length: Length of the Hann window, in samples; None is ``num_fft``.
        use_complex: Real and imaginary parts, instead of magnitudes and phases.
    """

    window: Tensor

    def __init__(self, num_fft: int = 1023, hop_length: int = 256, window_length: int | None = None, use_complex: bool = False) -> None:
        super().__init__()
        self.num_fft = num_fft
        self.hop_length = hop_length
        self.window_length = window_length if window_length is not None else num_fft
        self.use_complex = use_complex
        self.channels_per_channel = 2 * (num_fft // 2 + 1)
        self.register_buffer("window", torch.hann_window(self.window_length))

    def encode(self, audio: Tensor) -> Tensor:
        """(B, C, T) -> (B, 2 C F, L), in float32."""
        rows = rearrange(audio.float(), "b c t -> (b c) t")
        spectrum = torch.stft(
            rows, self.num_fft, self.hop_length, self.window_length, self.window.float(), normalized=True, return_complex=True
        )  # (B C, F, L)
        pair = (spectrum.real, spectrum.imag) if self.use_complex else (spectrum.abs(), spectrum.angle())
        return torch.cat([rearrange(part, "(b c) f l -> b (c f) l", b=len(audio)) for part in pair], dim=1)

    def decode(self, frames: Tensor, length: int) -> Tensor:
        """(B, 2 C F, L) -> (B, C, length), in float32."""
        first, second = (rearrange(part, "b (c f) l -> (b c) f l", f=self.num_fft // 2 + 1) for part in frames.float().chunk(2, dim=1))
        spectrum = torch.complex(first, second) if self.use_complex else torch.polar(first, second)
        rows = torch.istft(spectrum, self.num_fft, self.hop_length, self.window_length, self.window.float(), normalized=True, length=length)
        return rearrange(rows, "(b c) t -> b c t", b=len(frames))
