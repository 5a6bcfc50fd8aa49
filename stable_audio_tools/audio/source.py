"""What audio is read from: a file by its path, or an open binary file: a member of an archive, bytes in memory."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import BinaryIO, TypeAlias

from stable_audio_tools.errors import AudioError

Source: TypeAlias = "str | BinaryIO"
"""A path, or a seekable binary file that holds the audio file from byte 0 to its end, with the ``name`` that messages use."""


def as_source(given: str | os.PathLike[str] | BinaryIO) -> Source:
    """The source that a caller means: paths as texts, files as they are."""
    return os.fspath(given) if isinstance(given, (str, os.PathLike)) else given


def source_name(source: Source) -> str:
    """What messages call it."""
    return source if isinstance(source, str) else str(getattr(source, "name", "audio in memory"))


@contextmanager
def opened(source: Source) -> Generator[BinaryIO]:
    """The source as a binary file at byte 0. A file that was given keeps its position, since a decoder may be in the middle of it."""
    if isinstance(source, str):
        try:
            file = open(source, "rb")  # noqa: SIM115
        except OSError as error:
            raise AudioError(f"{source}: cannot be opened: {error.strerror}; expected an audio file that may be read") from error
        with file:
            yield file
        return
    position = source.tell()
    source.seek(0)
    try:
        yield source
    finally:
        source.seek(position)


def count_bytes(source: Source) -> int:
    """Size of the source."""
    if isinstance(source, str):
        return os.path.getsize(source)
    with opened(source) as file:
        return file.seek(0, os.SEEK_END)
