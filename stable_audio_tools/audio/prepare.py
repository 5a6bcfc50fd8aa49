"""Preparation: user audio made into what a model takes."""

from __future__ import annotations

import torch
from torch import Tensor

from stable_audio_tools.audio.channels import set_audio_channels
from stable_audio_tools.audio.crop import pad_crop
from stable_audio_tools.audio.resample import resample
from stable_audio_tools.errors import AudioError


def prepare_audio(
    audio: Tensor, in_sr: int, target_sr: int, target_length: int, target_channels: int, device: str | torch.device
) -> Tensor:
    """Resample, cut or pad at the end, batch, set the channels, and move to ``device``.

    Args:
        audio: (T,), (C, T) or (B, C, T) float waveform.
        in_sr: Its rate in Hz.
        target_sr: Wanted rate in Hz.
        target_length: Wanted length in samples, after resampling.
        target_channels: 1 or 2; any other number leaves the channels as they are.
        device: Where the result goes.

    Returns:
        (B, target_channels, target_length); B is 1 for 1-D and 2-D audio.

    Raises:
        AudioError: If ``audio`` has more than 3 dimensions or is not floating point, or a rate or length is out of range.

    >>> prepare_audio(torch.zeros(1, 22050), 22050, 44100, 65536, 2, "cpu").shape
    torch.Size([1, 2, 65536])
    """
    if audio.dim() not in (1, 2, 3):
        raise AudioError(f"prepare_audio: expected (T,), (C, T) or (B, C, T), got shape {tuple(audio.shape)}; reshape it")
    if not audio.is_floating_point():
        raise AudioError(f"prepare_audio: expected a float tensor, got {audio.dtype}; convert it with from_int16")
    audio = audio.unsqueeze(0) if audio.dim() == 1 else audio  # (C, T) or (B, C, T)
    audio = pad_crop(resample(audio, in_sr, target_sr), target_length).audio
    if audio.dim() == 2:
        audio = audio.unsqueeze(0)  # (B, C, T)
    return set_audio_channels(audio, target_channels).to(device)


def peak_normalize(audio: Tensor) -> Tensor:
    """Scale each clip so that its loudest sample is +-1; silence stays silence.

    Args:
        audio: (..., C, T) or (T,). The channels of a clip keep their balance, clips of a batch do not influence each other.

    >>> peak_normalize(torch.tensor([[0.0, -0.5], [0.25, 0.0]])).tolist()
    [[0.0, -1.0], [0.5, 0.0]]
    >>> peak_normalize(torch.zeros(1, 3)).tolist()
    [[0.0, 0.0, 0.0]]
    """
    if not audio.numel():
        return audio
    peak = audio.abs().amax(dim=(-2, -1) if audio.dim() > 1 else -1, keepdim=True)  # (..., 1, 1)
    return audio / torch.where(peak > 0, peak, torch.ones_like(peak))
