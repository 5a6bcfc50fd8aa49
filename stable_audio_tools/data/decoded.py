"""Decoded files that are kept in memory, for small ones that come again and again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

from torch import Tensor


class DecodedFiles:
    """Files as they were decoded, by index or name; the one that was not used for longest is given up for another.

    Each worker has its own.

    Args:
        max_bytes: Memory for all of them; 0 keeps none.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._held: OrderedDict[Hashable, Tensor] = OrderedDict()
        self.num_bytes = 0
        """Memory that they take now."""

    def __len__(self) -> int:
        return len(self._held)

    def get(self, key: Hashable) -> Tensor | None:
        """A file, not to be written to; None if it is not here."""
        samples = self._held.get(key)
        if samples is not None:
            self._held.move_to_end(key)
        return samples

    def keep(self, key: Hashable, samples: Tensor) -> None:
        """Keep a file, unless it takes more memory than there is for all."""
        size = samples.nbytes
        if key in self._held or size > self.max_bytes:
            return
        while self.num_bytes + size > self.max_bytes:
            _, least = self._held.popitem(last=False)
            self.num_bytes -= least.nbytes
        self._held[key] = samples
        self.num_bytes += size
