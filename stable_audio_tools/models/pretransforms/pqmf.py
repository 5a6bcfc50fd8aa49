"""PQMF: a bank of equally wide bands, critically sampled, that is inverted almost perfectly.

What comes back of white noise is 45 to 48 dB above the error for an attenuation of 60 dB, and 55 to 60 dB above it for 100 dB. Within half
a filter of both ends (some twenty frames) the signal does not come back: the bank sees silence beyond them.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from stable_audio_tools.config.base import PositiveFloat, PositiveInt
from stable_audio_tools.errors import ConfigError
from stable_audio_tools.families import PRETRANSFORMS
from stable_audio_tools.models.pretransforms.base import Pretransform


@lru_cache
def design_prototype(attenuation: float, num_bands: int) -> np.ndarray:
    """The low pass whose shifted copies are the bands: as flat as possible in sum, under a Kaiser window. Its length is odd.

    Source: Lin & Vaidyanathan 1998, https://doi.org/10.1109/97.681427.

    Args:
        attenuation: Of what is outside a band, in dB; decides the length.
        num_bands: Number of bands N.
    """
    from scipy.optimize import fmin
    from scipy.signal import firwin, kaiserord

    def low_pass(cutoff: float) -> np.ndarray:
        order, beta = kaiserord(attenuation, cutoff / np.pi)
        window: Any = ("kaiser", beta)
        return np.asarray(firwin(2 * (order // 2) + 1, cutoff, window=window, scale=False, fs=2 * np.pi))

    def error(cutoff: Any) -> float:  # neighbours alias and add up: their power response must be that of a Nyquist filter
        taps = low_pass(float(np.squeeze(cutoff)))
        correlation = np.convolve(taps, taps[::-1])
        return float(np.abs(correlation[len(taps) - 1 :: 2 * num_bands][1:]).max(initial=0.0))

    return low_pass(float(fmin(error, 1 / num_bands, disp=False)[0]))


def filter_bank(prototype: np.ndarray, num_bands: int) -> np.ndarray:
    """The prototype modulated to each band: (N, K), padded with zeros on both sides to a power of two and to at least 2 N taps."""
    half = len(prototype) // 2
    time = np.arange(-half, half + 1)
    band = np.arange(num_bands)[:, None]
    bank = 2 * prototype * np.cos((2 * band + 1) * np.pi / (2 * num_bands) * time + (-1.0) ** band * np.pi / 4)
    length = max(2 ** int(np.ceil(np.log2(bank.shape[1]))), 2 * num_bands)
    missing = length - bank.shape[1]
    return np.pad(bank, ((0, 0), (missing // 2, missing - missing // 2)))


class PQMF(nn.Module):
    """Analysis (`forward`) and synthesis (`inverse`) of one signal per row, in polyphase form: N times cheaper than filtering.

    Args:
        attenuation: Of what is outside a band, in dB.
        num_bands: Number of bands N, a power of two.
    """

    prototype: Tensor
    filter_bank: Tensor

    def __init__(self, attenuation: float, num_bands: int) -> None:
        super().__init__()
        self.num_bands = num_bands
        prototype = design_prototype(float(attenuation), num_bands)
        self.register_buffer("filter_bank", torch.tensor(filter_bank(prototype, num_bands), dtype=torch.float32))
        self.register_buffer("prototype", torch.tensor(prototype, dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:  # (M, T) -> (M, N, T / N)
        kernel = rearrange(self.filter_bank.to(x.dtype), "n (k p) -> n p k", p=self.num_bands)
        phases = rearrange(x, "m (l p) -> m p l", p=self.num_bands)
        bands = F.conv1d(phases, kernel, padding=kernel.shape[-1] // 2)[..., :-1]
        return self._flip_signs(bands)

    def inverse(self, z: Tensor) -> Tensor:  # (M, N, L) -> (M, L N)
        kernel = rearrange(self.filter_bank.to(z.dtype).flip(-1), "n (k p) -> p n k", p=self.num_bands)
        phases = F.conv1d(self._flip_signs(z), kernel, padding=kernel.shape[-1] // 2 + 1)[..., :-1] * self.num_bands
        return rearrange(phases.flip(1), "m p l -> m (l p)")[..., 2 * self.num_bands :]

    @staticmethod
    def _flip_signs(bands: Tensor) -> Tensor:
        """Odd bands come out mirrored in frequency; flipping every other sample turns them round. Its own inverse."""
        sign = torch.ones(bands.shape[-2:], dtype=bands.dtype, device=bands.device)
        sign[1::2, ::2] = -1
        return bands * sign


@PRETRANSFORMS.register("pqmf", ratio_key="num_bands", audio_key="channels", width_key=("channels", "num_bands"))
class PQMFPretransform(Pretransform):
    """Bands of a polyphase filter bank: (B, channels, T) to (B, channels * num_bands, T / num_bands) and almost perfectly back.

    T is padded with zeros to whole frames.

    Args:
        attenuation: Of what is outside a band, in dB; with 100, errors of reconstruction are 55 dB below the signal.
        num_bands: Bands per channel, a power of two.
        channels: Audio channels.
    """

    def __init__(self, attenuation: PositiveFloat = 100, num_bands: PositiveInt = 16, channels: PositiveInt = 1) -> None:
        super().__init__(enable_grad=False, io_channels=channels, is_discrete=False)
        if num_bands < 2 or num_bands & (num_bands - 1):
            raise ConfigError(f"pretransform 'pqmf': num_bands must be a power of two, at least 2, got {num_bands}")
        if attenuation < 30 or channels < 1:
            raise ConfigError(f"pretransform 'pqmf': needs attenuation >= 30 dB and channels >= 1, got {attenuation} and {channels}")
        self.downsampling_ratio = num_bands
        self.encoded_channels = channels * num_bands
        self.pqmf = PQMF(attenuation, num_bands)

    def encode(self, x: Tensor, **kwargs: Any) -> Tensor:
        x = F.pad(x, (0, -x.shape[-1] % self.downsampling_ratio))
        bands = self.pqmf(rearrange(x, "b c t -> (b c) t"))
        return rearrange(bands, "(b c) n l -> b (c n) l", b=x.shape[0])

    def decode(self, z: Tensor, **kwargs: Any) -> Tensor:
        rows = self.pqmf.inverse(rearrange(z, "b (c n) l -> (b c) n l", n=self.downsampling_ratio))
        return rearrange(rows, "(b c) t -> b c t", b=z.shape[0])
