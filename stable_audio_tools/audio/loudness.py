"""Loudness: how loud a listener finds a clip, in LUFS, as ITU-R BS.1770-5 measures it.

Letters: C channels, T samples.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from stable_audio_tools.errors import AudioError

_SEGMENT_SECONDS = 0.1  # blocks of 400 ms begin every 100 ms
_SEGMENTS_PER_BLOCK = 4
_ABSOLUTE_GATE_LUFS = -70.0
_RELATIVE_GATE_LU = -10.0
_OFFSET_LU = -0.691
_QUIETEST_LUFS = -60.0
_HIGHEST_PEAK = 0.95
_SURROUND_WEIGHT = 1.41
_SHELF_HZ, _SHELF_DB, _SHELF_Q = 1681.974450955533, 3.999843853973347, 0.7071752369554196
_HIGH_PASS_HZ, _HIGH_PASS_Q = 38.13547087602444, 0.5003270373238773
_SHELF_EXPONENT = 0.4996667741545416


class LoudnessMeter:
    """Measures a clip block by block; what it keeps grows by 80 bytes a second.

    Args:
        sample_rate: In Hz.
        num_channels: 5 and 6 are taken for surround (5.0, 5.1): the rear ones count 1.41 fold, the low-frequency one not at all.

    Source: ITU-R BS.1770-5, Annex 1. Its filters are tabulated at 48 kHz; at other rates they are the bilinear transforms of the same
    analogue filters.
    """

    def __init__(self, sample_rate: int, num_channels: int) -> None:
        self._filter = k_weighting(sample_rate)  # (2, 6)
        self._weights = _channel_weights(num_channels)
        self._state = np.zeros((len(self._filter), num_channels, 2))
        self._segment_samples = max(1, round(_SEGMENT_SECONDS * sample_rate))
        self._energies: list[NDArray[np.float64]] = []
        self._rest = np.zeros(0)  # weighted squares of the segment that is not complete yet
        self._num_samples = 0
        self._total = 0.0

    def add(self, block: NDArray[np.floating[Any]]) -> None:
        """Hear the next (C, T) samples."""
        from scipy.signal import sosfilt  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]

        if not block.shape[1]:
            return
        heard, self._state = sosfilt(self._filter, block.astype(np.float64), axis=-1, zi=self._state)
        squares = np.concatenate([self._rest, self._weights @ np.square(heard)])  # (T,)
        self._num_samples += block.shape[1]
        self._total += float(squares[len(self._rest) :].sum())
        count = len(squares) // self._segment_samples
        whole = np.reshape(squares[: count * self._segment_samples], (count, self._segment_samples))  # (segments, samples)
        self._energies.append(whole.sum(axis=1))
        self._rest = squares[count * self._segment_samples :]

    def integrated(self) -> float:
        """Loudness of all that was heard, in LUFS; minus infinity for silence.

        A clip shorter than one block of 400 ms, which the standard leaves undefined, is one block as long as it is.
        """
        energies = np.concatenate(self._energies) if self._energies else np.zeros(0)
        if len(energies) < _SEGMENTS_PER_BLOCK:
            return _lufs(self._total / self._num_samples) if self._num_samples else -math.inf
        sums = np.convolve(energies, np.ones(_SEGMENTS_PER_BLOCK), mode="valid")
        blocks = sums / (_SEGMENTS_PER_BLOCK * self._segment_samples)
        blocks = blocks[blocks > _power(_ABSOLUTE_GATE_LUFS)]
        if not len(blocks):
            return -math.inf
        blocks = blocks[blocks > blocks.mean() * 10 ** (_RELATIVE_GATE_LU / 10)]
        return _lufs(float(blocks.mean()))


def loudness_lufs(audio: Tensor, sample_rate: int) -> float:
    """Integrated loudness of a whole clip.

    Args:
        audio: (C, T) float waveform.
        sample_rate: In Hz.

    Returns:
        LUFS; minus infinity for silence.

    Raises:
        AudioError: If ``audio`` has another shape.

    >>> import torch
    >>> tone = torch.sin(2 * torch.pi * 997 * torch.arange(96000) / 48000)
    >>> round(loudness_lufs(tone[None], 48000), 1)  # the standard's example: a full-scale tone in one channel
    -3.0
    """
    if audio.dim() != 2 or not audio.shape[0]:
        raise AudioError(f"loudness: expected (channels, samples), got shape {tuple(audio.shape)}; unsqueeze(0) makes (T,) mono")
    meter = LoudnessMeter(sample_rate, audio.shape[0])
    meter.add(audio.detach().cpu().double().numpy())
    return meter.integrated()


def normalizing_gain(lufs: float, peak: float, *, target_lufs: float) -> float:
    """The factor that brings a clip to a loudness, or, where that would clip, its peak to 0.95.

    Args:
        lufs: Loudness of the clip. One below -60 LUFS is as good as silent, and stays as it is.
        peak: Its largest magnitude; full scale is 1.0.
        target_lufs: Wanted loudness.

    >>> round(normalizing_gain(-20.0, 0.1, target_lufs=-14.0), 3), normalizing_gain(-20.0, 0.5, target_lufs=-8.0)
    (1.995, 1.9)
    """
    if not lufs > _QUIETEST_LUFS:  # also if it is not a number
        return 1.0
    gain = 10 ** ((target_lufs - lufs) / 20)
    return _HIGHEST_PEAK / peak if gain * peak > 1 else gain


def k_weighting(sample_rate: int) -> NDArray[np.float64]:
    """The standard's two filters, a shelf for the head and a high pass, as second-order sections (2, 6) for ``scipy.signal.sosfilt``.

    Below 4 kHz of sample rate there is nothing for the shelf to lift, and it is left out.
    """
    sections: list[list[float]] = []
    if sample_rate >= 4000:
        k = math.tan(math.pi * _SHELF_HZ / sample_rate)
        high = 10 ** (_SHELF_DB / 20)
        middle = high**_SHELF_EXPONENT
        norm = 1 + k / _SHELF_Q + k * k
        zeros = [high + middle * k / _SHELF_Q + k * k, 2 * (k * k - high), high - middle * k / _SHELF_Q + k * k]
        sections.append([*(zero / norm for zero in zeros), 1.0, 2 * (k * k - 1) / norm, (1 - k / _SHELF_Q + k * k) / norm])
    k = math.tan(math.pi * _HIGH_PASS_HZ / max(sample_rate, 100))
    norm = 1 + k / _HIGH_PASS_Q + k * k
    sections.append([1.0, -2.0, 1.0, 1.0, 2 * (k * k - 1) / norm, (1 - k / _HIGH_PASS_Q + k * k) / norm])
    return np.array(sections)


def _channel_weights(num_channels: int) -> NDArray[np.float64]:
    weights = np.ones(num_channels)
    if num_channels == 5:
        weights[3:] = _SURROUND_WEIGHT
    elif num_channels == 6:
        weights[3], weights[4:] = 0, _SURROUND_WEIGHT
    return weights


def _lufs(power: float) -> float:
    return _OFFSET_LU + 10 * math.log10(power) if power > 0 else -math.inf


def _power(lufs: float) -> float:
    return 10 ** ((lufs - _OFFSET_LU) / 10)
