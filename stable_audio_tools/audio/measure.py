"""Measurement: all that a dataset wants to know of a file before it trains on it, in one decode and little memory."""

from __future__ import annotations

import math
import os
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stable_audio_tools.audio.decode import Decoder, decode
from stable_audio_tools.audio.io import AudioInfo, check_finite, info_of
from stable_audio_tools.audio.loudness import LoudnessMeter

SILENCE_DB = -60.0
"""Peaks below this are silence to a dataset, relative to full scale."""
_FRAME_SECONDS = 0.01  # silence is judged in frames of this length
_CLIPPED_LEVEL = 0.9995  # 16-bit full scale is 0.99997 or, scaled by 32767, 0.99994; codecs and dither move it a little
_CLIPPED_RUN = 3  # samples at full scale in a row: one or two may be a true peak


class Measurement(NamedTuple):
    """What a whole file holds."""

    info: AudioInfo
    peak: float
    """Largest magnitude of any sample; full scale is 1.0."""
    loudness_lufs: float
    """Integrated loudness (BS.1770); minus infinity for silence."""
    silence_share: float
    """Share of the 10 ms frames in which no channel exceeds -60 dB."""
    clipped_share: float
    """Share of the samples that stand at full scale, or above, three or more in a row."""
    audible_frames: int
    """Frames up to the end of the last 10 ms that are not silent; 0 for a silent file. The rest is a silent tail."""


def measure(path: str | os.PathLike[str]) -> Measurement:
    """Decode a whole file, a block at a time, and measure it.

    Raises:
        AudioError: If the file cannot be decoded to its end, is empty, holds NaN or Inf, or is shorter than its header says.
    """
    name = os.fspath(path)

    def use(decoder: Decoder) -> Measurement:
        meter = _Meter(decoder.sample_rate, decoder.num_channels)
        for block in decoder.blocks():
            check_finite(block, name, meter.num_frames)
            meter.add(block)
        return meter.result(info_of(decoder, name, meter.num_frames))

    return decode(name, use)


class _Meter:
    """Measures (C, T) blocks as they come."""

    def __init__(self, sample_rate: int, num_channels: int) -> None:
        self.num_frames = 0
        self._loudness = LoudnessMeter(sample_rate, num_channels)
        self._frame = max(1, round(_FRAME_SECONDS * sample_rate))
        self._threshold = 10 ** (SILENCE_DB / 20)
        self._rest = np.zeros(0, dtype=np.float32)  # peaks over channels of the 10 ms frame that is not complete yet
        self._runs = np.zeros(num_channels, dtype=np.int64)  # samples at full scale that each channel ended with
        self._num_silent = self._num_judged = self._last_loud = self._num_clipped = 0
        self._peak = 0.0

    def add(self, block: NDArray[np.floating[Any]]) -> None:
        self._loudness.add(block)
        magnitude = np.abs(block)  # (C, T)
        self.num_frames += block.shape[1]
        self._count_clipped(magnitude)
        peaks = np.concatenate([self._rest, magnitude.max(axis=0)])  # (T,)
        self._peak = max(self._peak, float(peaks.max(initial=0)))
        count = len(peaks) // self._frame
        self._judge(np.reshape(peaks[: count * self._frame], (count, self._frame)).max(axis=1))
        self._rest = peaks[count * self._frame :]

    def result(self, info: AudioInfo) -> Measurement:
        if len(self._rest):
            self._judge(self._rest.max(keepdims=True))
        return Measurement(
            info=info,
            peak=self._peak,
            loudness_lufs=self._loudness.integrated(),
            silence_share=self._num_silent / max(1, self._num_judged),
            clipped_share=self._num_clipped / max(1, self.num_frames * info.num_channels),
            audible_frames=min(self._last_loud * self._frame, self.num_frames),
        )

    def _judge(self, peaks: NDArray[np.floating[Any]]) -> None:
        """Count silent 10 ms frames, and remember the end of the last that is not."""
        loud = np.flatnonzero(peaks >= self._threshold)
        self._num_silent += len(peaks) - len(loud)
        if len(loud):
            self._last_loud = self._num_judged + int(loud[-1]) + 1
        self._num_judged += len(peaks)

    def _count_clipped(self, magnitude: NDArray[np.floating[Any]]) -> None:
        """Count samples in long enough runs at full scale; a run may go on from the block before."""
        at_limit = magnitude >= _CLIPPED_LEVEL
        if not at_limit.any():
            self._runs[:] = 0
            return
        for channel, is_clipped in enumerate(at_limit):
            before = int(self._runs[channel])
            edges = np.flatnonzero(np.diff(np.concatenate([[False], is_clipped, [False]]).astype(np.int8)))
            starts, ends = edges[::2], edges[1::2]
            lengths = np.asarray(ends - starts, dtype=np.int64)
            goes_on = len(starts) > 0 and starts[0] == 0
            if goes_on:
                lengths[0] += before
            self._num_clipped += int(np.sum(lengths[lengths >= _CLIPPED_RUN]))
            if goes_on and before >= _CLIPPED_RUN:
                self._num_clipped -= before  # counted with the block before
            self._runs[channel] = lengths[-1] if len(ends) and ends[-1] == len(is_clipped) else 0


def decibels(level: float) -> float:
    """A level relative to full scale, in decibels.

    >>> decibels(0.5)
    -6.020599913279624
    """
    return 20 * math.log10(level) if level > 0 else -math.inf
