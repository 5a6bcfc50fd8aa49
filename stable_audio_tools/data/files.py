"""Finding audio files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from stable_audio_tools.audio import AUDIO_EXTENSIONS
from stable_audio_tools.errors import DataError


def find_audio_files(folder: str | Path, extensions: Iterable[str] = AUDIO_EXTENSIONS) -> list[Path]:
    """All audio files below a folder, sorted, so that seeded runs agree between machines.

    Links to folders are followed, each real folder once. Names that begin with a dot are left out.

    Args:
        folder: Where to look.
        extensions: Lower-case suffixes to accept.

    Raises:
        DataError: If the folder does not exist or cannot be read.
    """
    root = Path(folder)
    if not root.is_dir():
        raise DataError(f"{root}: {'not a folder' if root.exists() else 'no such folder'}; a dataset's path is a folder of audio files")
    accepted = frozenset(extensions)
    return sorted(
        Path(parent, name)
        for parent, _, names in _walk(root)
        for name in names
        if not name.startswith(".") and Path(name).suffix.lower() in accepted
    )


def _walk(root: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """Folder, its sub-folders and its files, for each real folder below ``root`` once."""

    def fail(error: OSError) -> None:
        raise DataError(f"{error.filename}: cannot be read: {error.strerror}") from error

    seen: set[str] = set()
    for parent, folders, names in os.walk(root, followlinks=True, onerror=fail):
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield parent, folders, names


def fast_scandir(dir: str, ext: Sequence[str]) -> tuple[list[str], list[str]]:  # noqa: A002
    """Sub-folders and files with one of the extensions, recursively. Kept for scripts that call it; see `find_audio_files`."""
    extensions = {suffix.lower() if suffix.startswith(".") else f".{suffix.lower()}" for suffix in ext}
    files = [str(path) for path in find_audio_files(dir, extensions)]
    return sorted(str(Path(parent, name)) for parent, folders, _ in _walk(Path(dir)) for name in folders), files
