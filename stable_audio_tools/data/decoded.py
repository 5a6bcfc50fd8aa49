"""Decoded files that are kept in memory, for short ones that come again and again."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor


class DecodedFiles:
    """Files as they were decoded, by index; the one that was not used for longest is given up for another.

    Each worker has its own.

    Args:
        max_bytes: Memory for all of them; 0 keeps none.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._held: OrderedDict[int, Tensor] = OrderedDict()
        self.num_bytes = 0
        """Memory that they take now."""

    def __len__(self) -> int:
        return len(self._held)

    def get(self, index: int) -> Tensor | None:
        """A file (C, T), not to be written to; None if it is not here."""
        samples = self._held.get(index)
        if samples is not None:
            self._held.move_to_end(index)
        return samples

    def keep(self, index: int, samples: Tensor) -> None:
        """Keep a file (C, T), unless it takes more memory than there is for all."""
        size = samples.nbytes
        if index in self._held or size > self.max_bytes:
            return
        while self.num_bytes + size > self.max_bytes:
            _, least = self._held.popitem(last=False)
            self.num_bytes -= least.nbytes
        self._held[index] = samples
        self.num_bytes += size
