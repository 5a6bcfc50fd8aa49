"""Wording: numbers of things in messages."""

from __future__ import annotations


def counted(count: int, one: str, many: str | None = None) -> str:
    """How many there are, in words that agree.

    Args:
        count: How many.
        one: What one of them is called.
        many: What others are called; with an ``s`` if None.

    >>> counted(1, "file"), counted(0, "file"), counted(3, "entry", "entries")
    ('1 file', '0 files', '3 entries')
    """
    return f"{count} {one if count == 1 else many or one + 's'}"
