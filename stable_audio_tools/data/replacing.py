"""ReplacingDataset: items that turn out to be of no use, and others that take their place."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from stable_audio_tools.data.base import ItemDataset, ItemKey
from stable_audio_tools.data.metadata import CustomMetadata
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

    A subclass makes items in `attempt`, and remembers in `is_unreadable` and `has_readable` what need not be tried again.
    """

    holds = "latents"
    """What messages call what is found in items."""

    def attempt(self, index: int, rng: Any, length: int | None) -> tuple[Tensor, dict[str, Any]] | Unusable:
        """One try at an item: with ``rng`` for all that is random in it, and of ``length`` if that is not None."""
        raise NotImplementedError

    def is_unreadable(self, index: int) -> bool:
        """Whether an item is known to be of no use."""
        raise NotImplementedError

    def has_readable(self) -> bool:
        """Whether any item may still be of use."""
        raise NotImplementedError

    def summary(self) -> str:
        """What was of no use so far."""
        raise NotImplementedError

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
        while self.has_readable():
            yield from rng.sample(range(count), min(count, MAX_ATTEMPTS))


def stream_of(key: int | ItemKey, purpose: str | int) -> Any:
    """Randomness of one attempt at an item. A stream for each, so that a file which fails leaves no trace in what takes its place."""
    if not isinstance(key, ItemKey):
        return random
    drawn = f"/draw {key.draw}" if key.draw else ""
    return random.Random(f"{key.seed}/{key.epoch}/{key.index}{drawn}{f'/{purpose}' if purpose else ''}")


def described_latents(
    latents: Tensor, metadata: dict[str, Any], path: Path | str, custom_metadata: CustomMetadata | None
) -> tuple[Tensor, dict[str, Any]] | Unusable:
    """An item of latents with what its metadata module says, which may be that there is none."""
    said: Mapping[str, Any] = (custom_metadata(metadata, latents) if custom_metadata is not None else None) or {}
    metadata = {**metadata, **said}
    if metadata.pop("__reject__", False):
        return Unusable(f"{path}: rejected by the metadata module")
    given = metadata.pop("__replace__", None)
    if given is not None and (not isinstance(given, Tensor) or given.dim() != 2):
        shape = tuple(given.shape) if isinstance(given, Tensor) else type(given).__name__
        raise DataError(f"{path}: __replace__ is a tensor of latents (channels, frames), got {shape}")
    latents = latents if given is None else given
    return latents, {**metadata, "audio": latents}


def _parts(key: int | ItemKey) -> tuple[int, int | None]:
    return (key.index, key.length) if isinstance(key, ItemKey) else (key, None)
