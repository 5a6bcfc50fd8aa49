"""Finding audio files, and choosing among them by lists of paths."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

from stable_audio_tools.audio import AUDIO_EXTENSIONS
from stable_audio_tools.config.dataset import resolve
from stable_audio_tools.data.names import composed, path_order
from stable_audio_tools.errors import DataError, counted

logger = logging.getLogger(__name__)
FILELIST_NAME = "filelist.txt"
NUM_READERS = 16  # threads: reading many small files, or headers from afar, is waiting for them


def find_audio_files(folder: str | Path, extensions: Iterable[str] = AUDIO_EXTENSIONS) -> list[Path]:
    """All audio files below a folder, sorted, so that seeded runs agree between machines.

    Links to folders are followed, each real folder once. Names that begin with a dot are left out.

    Args:
        folder: Where to look.
        extensions: Lower-case suffixes to accept.

    Raises:
        DataError: If the folder does not exist or cannot be read.
    """
    return [Path(folder, name) for name in find_audio_names(folder, extensions)]


def find_audio_names(folder: str | Path, extensions: Iterable[str] = AUDIO_EXTENSIONS) -> list[str]:
    """What `find_audio_files` finds, as paths relative to the folder, with forward slashes."""
    root = Path(folder)
    refuse_no_folder(root, "a dataset's path is a folder of audio files")
    accepted = frozenset(extensions)
    found: list[str] = []
    for parent, _, names in _walk(root):
        inside = os.path.relpath(parent, root).replace(os.sep, "/")
        prefix = "" if inside == "." else f"{inside}/"
        found += [prefix + name for name in names if not name.startswith(".") and os.path.splitext(name)[1].lower() in accepted]
    return sorted(found, key=path_order)


def other_files(folder: Path) -> str:
    """What a folder holds in which no audio was found, for messages: ``, but 12 other files (.mid, .zip)``; empty if it holds nothing."""
    suffixes = Counter(os.path.splitext(name)[1].lower() or "without suffix" for _, _, names in _walk(folder) for name in names)
    kinds = ", ".join(suffix for suffix, _ in suffixes.most_common(3)) + (", ..." if len(suffixes) > 3 else "")
    return f", but {counted(suffixes.total(), 'other file')} ({kinds})" if suffixes else ""


def refuse_no_folder(path: Path, expected: str = "expected a folder of audio files") -> None:
    """Refuse what is no folder.

    Raises:
        DataError: If it is absent, or a file.
    """
    if not path.is_dir():
        raise DataError(f"{path}: {'is a file, not a folder' if path.exists() else 'no such folder'}; {expected}")


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


# ---- lists of paths --------------------------------------------------------------------------------------------------------------------


def read_lines(file: Path) -> list[str]:
    """Entries of a list of paths: one per line, with forward slashes; blank lines and those that begin with ``#`` say nothing.

    Raises:
        DataError: If it cannot be read as UTF-8 text.
    """
    try:
        text = file.read_text(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}; a list of paths is a text file with one path per line") from error
    return [_normalised(line) for line in map(str.strip, text.splitlines()) if line and not line.startswith("#")]


def filelist_of(folder: Path, given: str | Path | None = None) -> Path | None:
    """The list that names a folder's files: the one that is given, else ``filelist.txt`` in the folder, if there is one."""
    if given is not None:
        return Path(given)
    return folder / FILELIST_NAME if (folder / FILELIST_NAME).is_file() else None


def read_filelist(file: Path) -> list[str]:
    """Paths relative to a dataset's folder, in the order of the file, each once.

    Raises:
        DataError: If it names nothing, or something outside the folder.
    """
    names = list(dict.fromkeys(read_lines(file)))
    if not names:
        raise DataError(f"{file}: names no files; delete it to use all files of the folder")
    for name in names:
        if os.path.isabs(name) or name.split("/")[0] in ("..", "."):
            raise DataError(f"{file}: {name!r} is not below the dataset's folder; paths in it are relative to that folder")
    return names


class PathList:
    """Paths that a user wrote down to choose files by; ``in`` says whether they mean a file.

    A file is meant by its absolute path, its path as the dataset has it, its path relative to the dataset's folder with or without
    suffix, or its name with or without suffix: ``1`` means every ``.../1.mp3``.

    Args:
        file: One entry per line.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.entries = frozenset(map(composed, read_lines(file)))
        self._used: set[str] = set()

    def means(self, name: str, roots: Iterable[str]) -> bool:
        """Whether it means the file ``name`` of a folder that can be written as any of ``roots``, see `roots_of`."""
        base = name.rsplit("/", 1)[-1]
        forms = {name, os.path.splitext(name)[0], base, os.path.splitext(base)[0], *(f"{root}/{name}" for root in roots)}
        found = self.entries.intersection(map(composed, forms))
        self._used |= found
        return bool(found)

    def names_anywhere(self, name: str) -> bool:
        """Whether an entry is the file ``name`` of some folder, whatever that is."""
        return composed(name) in self._ends

    @cached_property
    def _ends(self) -> frozenset[str]:
        """What is left of each entry without its first folders."""
        return frozenset(entry[place + 1 :] for entry in self.entries for place, letter in enumerate(entry) if letter == "/")

    def refuse_empty(self) -> None:
        """Refuse a list of what to include that names nothing.

        Raises:
            DataError: If so.
        """
        if not self.entries:
            raise DataError(f"{self.file}: names no files, so no file would be used; leave include_paths_file out to use all")

    def say_what_is_unused(self) -> None:
        """Warn of entries that meant no file so far."""
        unused = sorted(self.entries - self._used)
        if unused:
            names = ", ".join(unused[:3]) + (", ..." if len(unused) > 3 else "")
            logger.warning("%s: %d of %d entries mean no file of the dataset (%s)", self.file, len(unused), len(self.entries), names)


def path_lists(exclude: str | None, include: str | None, base_dir: Path | None) -> tuple[PathList | None, PathList | None]:
    """The lists that a config names as ``exclude_paths_file`` and ``include_paths_file``.

    Raises:
        DataError: If one cannot be read.
    """
    excluded, included = (PathList(resolve(file, base_dir)) if file else None for file in (exclude, include))
    return excluded, included


def roots_of(folder: Path) -> set[str]:
    """Ways to write a folder that a list of paths may use: as given, absolute, and with its links resolved."""
    return {_normalised(str(way)) for way in (folder, folder.absolute(), folder.resolve())}


def _normalised(path: str) -> str:
    r"""With forward slashes, and without ``.``, ``..`` and doubled slashes inside.

    >>> _normalised(r"drums\.\kick\..\snare.wav")
    'drums/snare.wav'
    """
    return os.path.normpath(path.replace("\\", "/")).replace(os.sep, "/")
