"""What a run finds out about its files: their lengths, and which of them cannot be used. Shared by all workers of a process."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stable_audio_tools.audio import Measurement
from stable_audio_tools.data.file_table import KnownFiles
from stable_audio_tools.errors import AudioError, DataError

logger = logging.getLogger(__name__)
UNKNOWN, UNREADABLE = -1, -2  # instead of a length
_LEAST = 100  # files that a share is judged by, unless there are fewer


class FileStates:
    """One entry per file, in memory that all workers share; filled from manifests where there are any, else as files are met.

    Args:
        files: The files.
        max_unreadable_share: From 0 to 1; if more of the files that were met cannot be decoded, the run stops.

    Attributes:
        lengths: Samples per channel at the file's own rate, or frames of latents; `UNKNOWN` or `UNREADABLE`.
        rates: Hz; 0 where that is not known.
        audible: Samples up to the silent tail; `UNKNOWN` where that was not measured.
        peaks: Largest magnitude, where that was measured.
        loudness: LUFS, where that was measured.
        silent: Files of which a crop was silent; other crops of them may be used.
        rejected: Files of which a crop was rejected by their metadata module.
    """

    def __init__(self, files: KnownFiles, max_unreadable_share: float) -> None:
        self._files = files
        self._max_share = max_unreadable_share
        lengths = files.known("num_frames", UNKNOWN).astype(np.int64)
        lengths[lengths == 0] = UNREADABLE
        self.lengths = torch.from_numpy(lengths).share_memory_()
        self.rates = torch.from_numpy(files.known("sample_rate", 0).astype(np.int64)).share_memory_()
        self.audible = torch.from_numpy(files.known("audible_frames", UNKNOWN).astype(np.int64)).share_memory_()
        self.peaks = torch.from_numpy(files.known("peak", math.nan).astype(np.float32)).share_memory_()
        self.loudness = torch.from_numpy(files.known("loudness_lufs", math.nan).astype(np.float32)).share_memory_()
        self.silent = torch.zeros(len(files), dtype=torch.bool).share_memory_()
        self.rejected = torch.zeros(len(files), dtype=torch.bool).share_memory_()
        # Apart from what is known from before: of a disk that is lost, manifests and journals still say how long each file is.
        self._met = torch.zeros(len(files), dtype=torch.bool).share_memory_()  # files that were opened to be used
        self._last, self._num_met = "", 0  # last error and number of files, as this process has met them
        first = next(iter((self.lengths == UNREADABLE).nonzero().flatten().tolist()), None)
        if first is not None:
            logger.warning("left out, as %s says: %s", files.known_from, self.summary())
            self._last = files.error(first)
            self._check_share(self._last)

    @property
    def num_unreadable(self) -> int:
        """How many files have turned out to be unreadable so far."""
        return int((self.lengths == UNREADABLE).sum())

    @property
    def num_skipped(self) -> int:
        """How many files were unreadable, or had a silent or rejected crop, so far."""
        return int(((self.lengths == UNREADABLE) | self.silent | self.rejected).sum())

    def is_unreadable(self, index: int) -> bool:
        """Whether a file has turned out to be unreadable."""
        return int(self.lengths[index]) == UNREADABLE

    def has_readable(self) -> bool:
        """Whether any file has not."""
        return bool((self.lengths != UNREADABLE).any())

    def learn(self, indices: NDArray[np.int64], lengths: Sequence[int], errors: Mapping[int, AudioError | DataError]) -> None:
        """Take what was found out of files before the first is used, as a manifest would say it.

        Args:
            indices: The files.
            lengths: Of each; `UNREADABLE` of those that cannot be read.
            errors: Why these cannot, by index.

        Raises:
            DataError: If more files than allowed are unreadable.
        """
        self.lengths[torch.from_numpy(indices)] = torch.tensor(lengths, dtype=torch.int64)
        if not errors:
            return
        self._last = str([*errors.values()][-1])
        self._check_share(self._last)
        for error in errors.values():
            logger.warning("skipped: %s", error)

    def learn_length(self, index: int, length: int, rate: int = 0) -> None:
        """Remember how long a file is, unless that is known."""
        if int(self.lengths[index]) < 0:
            self.rates[index], self.lengths[index] = rate, length

    def meet(self, index: int) -> None:
        """Remember that a file was read.

        Raises:
            DataError: If it is one of enough, and too many of them are unreadable.
        """
        if self._is_first(index) and (len(self._files) <= _LEAST or self._num_met % _LEAST == 0):  # counting a million takes 1 ms
            self._check_share(self._last)

    def _is_first(self, index: int) -> bool:
        """Whether a file was not met before; from now on it was."""
        if self._met[index]:
            return False
        self._met[index] = True
        self._num_met += 1
        return True

    def note(self, index: int, measured: Measurement) -> None:
        """Remember what was measured of a whole file."""
        self.audible[index], self.peaks[index], self.loudness[index] = measured.audible_frames, measured.peak, measured.loudness_lufs

    def condemn(self, index: int, error: AudioError | DataError) -> None:
        """Leave a file out from now on, and say so.

        Raises:
            DataError: If more files than allowed are unreadable by now.
        """
        if int(self.lengths[index]) != UNREADABLE:  # another worker may have met it at the same time
            self.lengths[index] = UNREADABLE
            logger.warning("skipped: %s", error)
        self._is_first(index)
        self._last = str(error)
        self._check_share(self._last)

    def _check_share(self, last: str) -> None:
        """Stop if too many fail, once there are a hundred or all if there are fewer: of those that something is known of, or were met."""
        unreadable, total = self.lengths == UNREADABLE, len(self._files)
        if bool(unreadable.all()):  # then another error says so
            return
        for judged in (self.lengths != UNKNOWN, self._met):
            count, among = int((unreadable & judged).sum()), int(judged.sum())
            if among >= min(total, _LEAST) and count > self._max_share * among:
                which = f"{self.summary()}{'; last: ' + last if last else ''}"
                finder = f" ({self._files.finder})" if self._files.finder else ""
                raise DataError(
                    f"{which}; more than {self._max_share:.0%} of {among} files cannot be decoded: mend or remove them{finder}, or "
                    "allow more with max_unreadable_share"
                )

    def summary(self) -> str:
        """How many files were unreadable, or had a silent or rejected crop, so far, and the first few of each."""
        text = f"{self.num_unreadable} of {len(self._files)} files unreadable{self._first(self.lengths == UNREADABLE)}"
        for what, affected in (("silent", self.silent), ("rejected", self.rejected)):
            if affected.any():
                text += f"; {int(affected.sum())} with {what} crops, which were replaced{self._first(affected)}"
        return text

    def _first(self, chosen: Tensor) -> str:
        """The first few of the chosen files, in brackets."""
        indices = chosen.nonzero().flatten().tolist()
        names = ", ".join(str(self._files[index].path) for index in indices[:5]) + (", ..." if len(indices) > 5 else "")
        return f" ({names})" if indices else ""
