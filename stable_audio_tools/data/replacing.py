"""ReplacingDataset: items that turn out to be of no use, and others that take their place."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import Tensor

from stable_audio_tools.data.base import ItemDataset, ItemKey
from stable_audio_tools.data.file_states import FileStates
from stable_audio_tools.data.file_table import KnownFiles
from stable_audio_tools.errors import DataError

MAX_ATTEMPTS = 200  # items tried before giving up on finding a usable one
MAX_CROPS = 16  # of one item, before giving up on it: of files that are silent for a half, one in 65,536 is given up


class Unusable(NamedTuple):
    """Why there is no item."""

    reason: str
    is_of_crop: bool = False
    """Whether another crop of the same item may be of use."""


class ReplacingDataset(ItemDataset):
    """Delivers another item, drawn from those that are left, where the one asked for cannot be used.

    A subclass makes items of ``files`` in `attempt`, and remembers in ``states`` what need not be tried again.
    """

    holds = "latents"
    """What messages call what is found in items."""
    files: KnownFiles
    states: FileStates

    def attempt(self, index: int, rng: Any, length: int | None) -> tuple[Tensor, dict[str, Any]] | Unusable:
        """One try at an item: with ``rng`` for all that is random in it, and of ``length`` if that is not None."""
        raise NotImplementedError

    def is_unreadable(self, index: int) -> bool:
        """Whether an item is known to be of no use."""
        return self.states.is_unreadable(index)

    def name(self, index: int) -> str:
        """The path of its file."""
        return str(self.files[index].path)

    @property
    def filenames(self) -> list[str]:
        """Paths of all files. Made anew each time; see `name` for one."""
        return [self.name(index) for index in range(len(self))]

    @property
    def num_unreadable(self) -> int:
        """How many files have turned out to be unreadable so far."""
        return self.states.num_unreadable

    @property
    def num_skipped(self) -> int:
        """How many files were not used, or had parts that were not used, so far."""
        return self.states.num_skipped

    def summary(self) -> str:
        """How many files were not used so far, why, and the first few of each kind."""
        return self.states.summary()

    def __getitem__(self, key: int | ItemKey) -> tuple[Tensor, dict[str, Any]]:
        index, length = _parts(key)
        reason, tried = "", 0
        for attempt, candidate in enumerate(self._candidates(index, stream_of(key, "order"))):
            if self.is_unreadable(candidate):
                continue
            item = self.attempt(candidate, stream_of(key, attempt), length)
            if not isinstance(item, Unusable):
                return item
            reason, tried = item.reason, tried + 1
            if tried == MAX_ATTEMPTS:
                break
        raise DataError(f"no usable {self.holds} found in {len(self)} files: {self.summary()}{f'; last: {reason}' if reason else ''}")

    def exactly(self, key: int | ItemKey) -> tuple[tuple[Tensor, dict[str, Any]] | None, str]:
        index, length = _parts(key)
        reason = ""
        for attempt in range(MAX_CROPS):
            item = self.attempt(index, stream_of(key, attempt), length)
            if not isinstance(item, Unusable):
                return item, ""
            reason = reason or item.reason
            if not item.is_of_crop:
                break
        return None, reason

    def _candidates(self, index: int, rng: Any) -> Iterator[int]:
        """The item asked for, then those that may take its place, again and again: another crop of a file may not be silent."""
        yield index
        count = len(self)
        while self.states.has_readable():
            yield from rng.sample(range(count), min(count, MAX_ATTEMPTS))


def stream_of(key: int | ItemKey, purpose: str | int) -> Any:
    """Randomness of one attempt at an item. A stream for each, so that a file which fails leaves no trace in what takes its place."""
    if not isinstance(key, ItemKey):
        return random
    drawn = f"/draw {key.draw}" if key.draw else ""
    return random.Random(f"{key.seed}/{key.epoch}/{key.index}{drawn}{f'/{purpose}' if purpose else ''}")


def _parts(key: int | ItemKey) -> tuple[int, int | None]:
    return (key.index, key.length) if isinstance(key, ItemKey) else (key, None)
