"""Activations of the convolutional autoencoders."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.models.layers.snake import snake

ActivationName = Literal["elu", "snake", "none"]


class SnakeBeta(nn.Module):
    """``x + sin(a x)^2 / (b + 1e-9)`` with ``a = exp(alpha)``, ``b = exp(beta)`` per channel: periodic, so it extrapolates tones.

    Source: Ziyin et al. 2020, arXiv:2006.08195 (Snake); the second parameter is BigVGAN's, arXiv:2206.04658.

    Args:
        channels: Channels C of the input (B, C, T).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:  # (B, C, T) -> (B, C, T)
        frequency = self.alpha.float().exp()[:, None]
        height = (self.beta.float().exp()[:, None] + 1e-9).reciprocal()
        return snake(x, frequency, height)


class Snake1d(nn.Module):
    """``x + sin(a x)^2 / (a + 1e-9)`` with one ``a`` per channel, not its logarithm: the Snake of the Descript Audio Codec.

    Args:
        channels: Channels C of the input (B, C, T).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, channels, 1))

    def forward(self, x: Tensor) -> Tensor:  # (B, C, T) -> (B, C, T)
        frequency = self.alpha[0].float()  # (C, 1)
        return snake(x, frequency, (frequency + 1e-9).reciprocal())


def kaiser_sinc_filter(cutoff: float, half_width: float, kernel_size: int) -> Tensor:
    """Low-pass FIR filter: a sinc under a Kaiser window, normalised to unit sum.

    Args:
        cutoff: Cut-off frequency as a share of the sample rate, in (0, 0.5].
        half_width: Half the width of the transition band, in the same unit.
        kernel_size: Number of taps, even.

    Returns:
        (1, 1, kernel_size)
    """
    attenuation = 2.285 * (kernel_size // 2 - 1) * math.pi * 4 * half_width + 7.95
    if attenuation > 50:
        beta = 0.1102 * (attenuation - 8.7)
    elif attenuation >= 21:
        beta = 0.5842 * (attenuation - 21) ** 0.4 + 0.07886 * (attenuation - 21)
    else:
        beta = 0.0
    window = torch.kaiser_window(kernel_size, periodic=False, beta=beta)
    time = torch.arange(-(kernel_size // 2), kernel_size // 2) + 0.5
    taps = 2 * cutoff * window * torch.sinc(2 * cutoff * time)
    return (taps / taps.sum()).view(1, 1, kernel_size)


class _Upsample2(nn.Module):
    filter: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("filter", kaiser_sinc_filter(0.25, 0.3, 12))

    def forward(self, x: Tensor) -> Tensor:  # (B, C, T) -> (B, C, 2 T)
        x = F.pad(x, (5, 5), mode="replicate")
        x = 2 * F.conv_transpose1d(x, self.filter.expand(x.shape[1], -1, -1), stride=2, groups=x.shape[1])
        return x[..., 15:-15]


class _LowPass(nn.Module):
    filter: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("filter", kaiser_sinc_filter(0.25, 0.3, 12))


class _Downsample2(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lowpass = _LowPass()

    def forward(self, x: Tensor) -> Tensor:  # (B, C, 2 T) -> (B, C, T)
        x = F.pad(x, (5, 6), mode="replicate")
        return F.conv1d(x, self.lowpass.filter.expand(x.shape[1], -1, -1), stride=2, groups=x.shape[1])


class Antialiased(nn.Module):
    """An activation at twice the sample rate, so that the harmonics it makes do not fold back.

    Source: Karras et al. 2021, arXiv:2106.12423, with the 12-tap Kaiser-sinc filters of BigVGAN.
    """

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.act = activation
        self.upsample = _Upsample2()
        self.downsample = _Downsample2()

    def forward(self, x: Tensor) -> Tensor:  # (B, C, T) -> (B, C, T)
        return self.downsample(self.act(self.upsample(x)))


def get_activation(activation: ActivationName, antialias: bool = False, channels: int | None = None) -> nn.Module:
    """Make an activation.

    Args:
        activation: ``"elu"``, ``"snake"`` or ``"none"``.
        antialias: Run it at twice the rate.
        channels: Channels of the input; needed by ``"snake"``.

    Raises:
        ConfigError: If the name is unknown, or ``channels`` is missing where it is needed.
    """
    if activation == "elu":
        module: nn.Module = nn.ELU()
    elif activation == "snake":
        if channels is None:
            raise ConfigError("activation 'snake' has parameters per channel: pass channels")
        module = SnakeBeta(channels)
    elif activation == "none":
        module = nn.Identity()
    else:
        raise ConfigError(f"unknown activation {activation!r}; known: elu, snake, none")
    return Antialiased(module) if antialias else module
