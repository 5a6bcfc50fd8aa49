"""SaidLengths: how long items are, as far as that is written down beside them, so that none has to be opened to find out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

_KEYS = {"num_frames": "frames", "sample_rate": "sample_rate", "seconds_total": "seconds_total"}  # column -> key of a journal's entry


class SaidLengths:
    """Numbers of each item, by column. Nothing is known before `learn`.

    ``num_frames`` are frames of latents that hold audio, or samples per channel; ``sample_rate`` is in Hz; ``seconds_total`` is the
    length of the clip that an item is from.
    """

    known_from = "what is written down beside them"
    finder = ""

    def __init__(self) -> None:
        self._columns: dict[str, NDArray[np.float64]] = {}

    def __len__(self) -> int:
        raise NotImplementedError

    def learn(self, entries: Iterable[Mapping[str, Any]]) -> None:
        """Take the entries of journals, one of each item; an empty one says nothing."""
        rows = [[entry.get(key, np.nan) for key in _KEYS.values()] for entry in entries]
        values = np.array(rows, dtype=np.float64).reshape(-1, len(_KEYS))
        self._columns = dict(zip(_KEYS, values.T, strict=True))

    def forget(self, kept: NDArray[np.bool_]) -> None:
        """Forget all items but those that are kept."""
        self._columns = {name: values[kept] for name, values in self._columns.items()}

    def known(self, column: str, otherwise: float) -> NDArray[Any]:
        """A number for each item; ``otherwise`` where it is not known."""
        values = self._columns.get(column)
        return np.full(len(self), otherwise) if values is None else np.where(np.isnan(values), otherwise, values)

    def error(self, index: int) -> str:
        """Why an item is known to be of no use: nobody writes that down."""
        return ""
