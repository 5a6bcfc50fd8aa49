"""Resampling by whole factors inside a network: differentiable, with the filters as buffers that published checkpoints hold.

The audio package resamples files better, but outside of autograd.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

ZERO_CROSSINGS = 6  # of the sinc, on either side
ROLL_OFF = 0.99  # cut-off, as a share of the lower Nyquist frequency


def sinc_filters(up: int, down: int) -> Tensor:
    """Hann-windowed sinc filters, one per phase of the output.

    Source: Smith, Digital Audio Resampling, https://ccrma.stanford.edu/~jos/resample/.

    Args:
        up: Output samples per ``down`` input samples.
        down: Input samples per ``up`` output samples; one of both is 1.

    Returns:
        (up, 1, 2 W + down), to be applied with stride ``down`` to a signal that is padded by W before and W + down after.
    """
    cutoff = ROLL_OFF * min(up, down)  # in half cycles per ``down`` input samples
    reach = math.ceil(ZERO_CROSSINGS * down / cutoff)  # W
    position = torch.arange(-reach, reach + down, dtype=torch.float64) / down
    phase = torch.arange(up, dtype=torch.float64) / up
    time = ((position - phase[:, None]) * cutoff).clamp(-ZERO_CROSSINGS, ZERO_CROSSINGS)  # (up, taps)
    window = torch.cos(time * math.pi / ZERO_CROSSINGS / 2).square()
    return (torch.sinc(time) * window * cutoff / down)[:, None].float()


class SincResampler(nn.Module):
    """Changes the rate by ``up / down``: (B, C, T) -> (B, C, ceil(T * up / down)). Treats channels alike.

    Args:
        up: Factor of the rate.
        down: Divisor of the rate; one of both is 1.
    """

    kernel: Tensor

    def __init__(self, up: int = 1, down: int = 1) -> None:
        super().__init__()
        self.up, self.down = up, down
        self.register_buffer("kernel", sinc_filters(up, down))

    def forward(self, x: Tensor) -> Tensor:
        reach = (self.kernel.shape[-1] - self.down) // 2
        line = F.pad(rearrange(x, "b c t -> (b c) 1 t"), (reach, reach + self.down))
        phases = F.conv1d(line, self.kernel.to(x.dtype), stride=self.down)  # (B C, up, L)
        resampled = rearrange(phases, "(b c) p l -> b c (l p)", b=x.shape[0])
        return resampled[..., : -(-x.shape[-1] * self.up // self.down)]
