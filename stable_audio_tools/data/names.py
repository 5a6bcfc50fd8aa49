"""Names: a sequence of strings in two arrays, so that a million paths are not a million objects."""

from __future__ import annotations

import unicodedata
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray


class Names(Sequence[str]):
    """Strings, end to end in one array of bytes. A million of 40 characters take 48 MB; as a list of ``str`` they take 97 MB, which
    every worker process copies piece by piece, since Python writes its reference counts into them.

    Args:
        offsets: (N + 1,) int64: where in ``data`` each begins, and where the last ends.
        data: uint8, the strings in UTF-8; bytes that are none, which file names may hold, as Python's ``surrogateescape`` keeps them.
    """

    def __init__(self, offsets: NDArray[np.int64], data: NDArray[np.uint8]) -> None:
        self._offsets = offsets
        self._data = data

    @classmethod
    def of(cls, names: Iterable[str]) -> Names:
        """Pack strings.

        >>> list(Names.of(["kick.wav", "", "snare.wav"]))
        ['kick.wav', '', 'snare.wav']
        """
        encoded = [name.encode("utf-8", "surrogateescape") for name in names]
        offsets = np.zeros(len(encoded) + 1, dtype=np.int64)
        np.cumsum([len(name) for name in encoded], out=offsets[1:])
        return cls(offsets, np.frombuffer(b"".join(encoded), dtype=np.uint8))

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        count = len(self)
        if not -count <= index < count:
            raise IndexError(f"name {index} of {count}")
        first, last = self._offsets[index % count], self._offsets[index % count + 1]
        return self._data[first:last].tobytes().decode("utf-8", "surrogateescape")

    def find(self, name: str) -> int | None:
        """Where a path stands, in names that are sorted as `path_order` has it; None if it is not there."""
        at = bisect_left(self, path_order(name), key=path_order)
        return at if at < len(self) and self[at] == name else None


def path_order(name: str) -> list[str]:
    """What paths are sorted by: part by part, so that a folder's files stand together whatever its neighbours are called."""
    return name.split("/")


def composed(name: str) -> str:
    r"""A name with each letter and its accents as one character, by which names are compared: macOS may write them apart, others do not.

    >>> composed("caf\u0065\u0301.wav") == "caf\u00e9.wav"
    True
    """
    return name if name.isascii() else unicodedata.normalize("NFC", name)
