"""Lists of paths for folders of latents: an entry means the latents, or the audio that they were made of."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from stable_audio_tools.data.files import NUM_READERS, PathList, roots_of
from stable_audio_tools.data.latent_file import metadata_beside
from stable_audio_tools.data.latent_store import LatentStore
from stable_audio_tools.errors import DataError

logger = logging.getLogger(__name__)
_FILES_AT_A_TIME = 10_000


def choose_latents(stores: Sequence[LatentStore], exclude: PathList | None, include: PathList | None) -> None:
    """Use only the latents that the lists allow, and say how many are left out.

    Raises:
        DataError: If none is left.
    """
    if include is not None:
        include.refuse_empty()
    lists = [(paths, is_wanted) for paths, is_wanted in ((exclude, False), (include, True)) if paths is not None]
    for store in stores if lists else ():
        sources = _Sources(store)
        for paths, is_wanted in lists:
            meant = sources.meant_by(paths)
            kept = [path for path, is_meant in zip(store.paths, meant, strict=True) if is_meant == is_wanted]
            which = "not in" if is_wanted else "in"
            logger.info("%s: left out %d items that are %s %s", store.folder, len(store.paths) - len(kept), which, paths.file)
            store.paths = kept
    for paths, _ in lists:
        paths.say_what_is_unused()
    if not any(store.paths for store in stores):
        raise DataError(f"no latents in {', '.join(str(store.folder) for store in stores)}: all are left out by lists")


class _Audio(NamedTuple):
    """A file that latents were made of."""

    root: str
    relpath: str


class _Sources:
    """The audio that the items of a store were made of. A JSON file is opened only if journals leave the question open, and once."""

    def __init__(self, store: LatentStore) -> None:
        self._store = store
        self._roots = roots_of(store.folder)
        self._read: dict[Path, _Audio | None] = {}
        self._said: dict[str, str] = {}  # name of the latents -> relpath of their audio
        with suppress(DataError, OSError, UnicodeDecodeError):  # a damaged journal: the JSON files say the same
            self._said = {name: entry["relpath"] for name, entry in store.said().items() if isinstance(entry.get("relpath"), str)}

    def meant_by(self, paths: PathList) -> list[bool]:
        """Whether a list means each item of the store."""
        held = self._store.paths
        meant = [self._is_meant(paths, path) for path in held]
        self._look_up([path for path, is_meant in zip(held, meant, strict=True) if not is_meant and self._is_open(paths, path)])
        return [is_meant or self._is_meant_as_read(paths, path) for path, is_meant in zip(held, meant, strict=True)]

    def _is_meant(self, paths: PathList, path: Path) -> bool:
        if paths.means(path.relative_to(self._store.folder).as_posix(), self._roots):
            return True
        return path.stem in self._said and paths.means(self._said[path.stem], ())

    def _is_open(self, paths: PathList, path: Path) -> bool:
        """Whether it must be known where the audio was, or what it was."""
        said = self._said.get(path.stem)
        return path not in self._read and (said is None or paths.names_anywhere(said))

    def _look_up(self, paths: Sequence[Path]) -> None:
        with ThreadPoolExecutor(NUM_READERS) as readers:
            for first in range(0, len(paths), _FILES_AT_A_TIME):
                some = paths[first : first + _FILES_AT_A_TIME]
                self._read.update(zip(some, readers.map(_audio_of, some), strict=True))

    def _is_meant_as_read(self, paths: PathList, path: Path) -> bool:
        audio = self._read.get(path)
        return audio is not None and paths.means(audio.relpath, (audio.root,))


def _audio_of(path: Path) -> _Audio | None:
    with suppress(DataError):  # to be told when the item is read
        metadata = metadata_beside(path)
        audio, name = str(metadata.get("path", "")).replace("\\", "/"), metadata.get("relpath")
        return _Audio(audio.removesuffix(f"/{name}"), name) if isinstance(name, str) else None
    return None
