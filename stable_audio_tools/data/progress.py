"""Progress: how far a command is that goes through many files."""

from __future__ import annotations

from typing import NamedTuple


class Progress(NamedTuple):
    """How far it has got."""

    num_done: int
    """Files that are done, now or by an earlier run."""
    num_files: int
    num_read: int
    """Of those that are done, by this run."""
    num_bytes: int
    """Bytes of these."""
    seconds: float
    """Since it began."""
