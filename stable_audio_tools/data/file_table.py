"""The files of a dataset, made one at a time when they are asked for."""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol, overload

import numpy as np
from numpy.typing import NDArray

from stable_audio_tools.data.files import PathList, filelist_of, find_audio_names, other_files, read_filelist, roots_of
from stable_audio_tools.data.manifest import Manifest, manifest_of
from stable_audio_tools.data.metadata import Captions, CustomMetadata
from stable_audio_tools.data.names import Names
from stable_audio_tools.errors import DataError

logger = logging.getLogger(__name__)


class LocalDatasetConfig:
    """One folder, as `SampleDataset` takes it.

    Args:
        id: A name, for people.
        path: The folder.
        custom_metadata_fn: Called with the metadata so far and the audio (C, T); returns more metadata. ``__reject__: True`` in it leaves
            the item out; ``__replace__`` is audio (C, T) in place of the item's; ``__audio__`` holds further audio by name, which is
            cropped like the item and joins the metadata.
        captions: Metadata from files beside the audio.
        weight: How often its files are drawn, relative to the files of other folders.
        keywords: Only files are used whose name holds one of these words, in any case.
        filelist_path: A list of files to use, relative to the folder; by default ``filelist.txt`` in it, if there is one.
        manifest: What is known of the files, from ``sat data scan``; by default ``manifest.parquet`` in the folder, if there is one.
    """

    def __init__(
        self,
        id: str,  # noqa: A002
        path: str,
        custom_metadata_fn: CustomMetadata | None = None,
        captions: Captions | None = None,
        *,
        weight: float = 1.0,
        keywords: Sequence[str] | None = None,
        filelist_path: str | None = None,
        manifest: str | None = None,
    ) -> None:
        if not weight > 0:
            raise DataError(f"{path}: weight must be above 0, got {weight!r}; leave the folder out instead")
        self.id = id
        self.path = path
        self.custom_metadata_fn = custom_metadata_fn
        self.captions = captions
        self.weight = weight
        self.keywords = keywords
        self.filelist_path = filelist_path
        self.manifest = manifest


class AudioFile(NamedTuple):
    """One file of a dataset, and where its metadata comes from."""

    path: Path
    folder: Path
    relpath: str
    captions: Captions | None
    custom_metadata: CustomMetadata | None

    def opened(self) -> AbstractContextManager[Path]:
        """What to decode."""
        return nullcontext(self.path)

    def described(self) -> dict[str, Any]:
        """What is said of the file beside it."""
        return self.captions(self.path) if self.captions is not None else {}


class KnownFile(Protocol):
    """A file of a dataset, of whatever kind and wherever it is."""

    @property
    def path(self) -> Path | str:
        """What messages and metadata call it."""
        ...


class KnownFiles(Protocol):
    """The files of a dataset, and what is known of all of them before any is opened."""

    known_from: str
    """Where that is written, for messages."""
    finder: str
    """What finds all that are of no use, for messages; empty if nothing does."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> KnownFile: ...

    def known(self, column: str, otherwise: float) -> NDArray[Any]:
        """A number for each file: ``num_frames``, ``sample_rate``, ...; ``otherwise`` where it is not known."""
        ...

    def error(self, index: int) -> str:
        """Why a file is known to be of no use; empty if it is not."""
        ...


class UsableFile(KnownFile, Protocol):
    """What a dataset needs to know of an audio file."""

    @property
    def relpath(self) -> str:
        """Its path in the dataset."""
        ...

    @property
    def custom_metadata(self) -> CustomMetadata | None:
        """The function of the user's metadata module."""
        ...

    def opened(self) -> AbstractContextManager[Path | BinaryIO]:
        """What to decode."""
        ...

    def described(self) -> dict[str, Any]:
        """What is said of it beside it. Raises AudioError if it cannot be used because of that."""
        ...


class UsableFiles(KnownFiles, Protocol):
    """The audio files of a dataset."""

    def __getitem__(self, index: int, /) -> UsableFile: ...

    def weights(self) -> NDArray[np.float64] | None:
        """How often each is drawn, relative to others; None if equally often."""
        ...


@dataclass
class Folder:
    """The files that are used of one folder.

    Attributes:
        config: The folder.
        names: Paths relative to it; of all its files, or of those that are used.
        chosen: Which of ``names`` are used; None for all.
        manifest: What is known of the files.
        rows: Row of the manifest for each of ``names``, -1 for none; None if they are the manifest's own names.
    """

    config: LocalDatasetConfig
    names: Names
    manifest: Manifest | None = None
    rows: NDArray[np.int64] | None = None
    chosen: NDArray[np.int64] | None = field(default=None)

    @classmethod
    def open(cls, config: LocalDatasetConfig) -> Folder:
        """List the files: those of the file list, else those of the manifest, else those that are there.

        Raises:
            DataError: If one of them cannot be read.
        """
        root = Path(config.path)
        path = Path(config.manifest) if config.manifest else manifest_of(root)
        manifest = Manifest(path) if path is not None else None
        if manifest is not None:
            logger.info("%s: %d files, as listed in %s", root, len(manifest), manifest.path)
        filelist = filelist_of(root, config.filelist_path)
        if filelist is not None:
            names = Names.of(read_filelist(filelist))
            logger.info("%s: %d files, as listed in %s", root, len(names), filelist)
            rows = None
            if manifest is not None:
                found = (manifest.names.find(name) for name in names)
                rows = np.array([-1 if row is None else row for row in found], dtype=np.int64)
            return cls(config, names, manifest, rows)
        if manifest is not None:
            if not root.is_dir():
                raise DataError(f"{root}: no such folder, but {manifest.path} lists its files")
            return cls(config, manifest.names, manifest)
        return cls(config, Names.of(find_audio_names(root)))

    def __getstate__(self) -> dict[str, Any]:
        is_manifests = self.manifest is not None and self.names is self.manifest.names
        return self.__dict__ | ({"names": None} if is_manifests else {})

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        if self.names is None and self.manifest is not None:
            self.names = self.manifest.names  # of the file that this process has mapped

    def __len__(self) -> int:
        return len(self.names) if self.chosen is None else len(self.chosen)

    def name(self, index: int) -> str:
        """Path of a used file, relative to the folder."""
        return self.names[index if self.chosen is None else int(self.chosen[index])]

    def keep(self, wanted: Callable[[str], bool]) -> int:
        """Use only files whose name is wanted; returns how many are left out."""
        before = len(self)
        used = range(len(self.names)) if self.chosen is None else self.chosen
        kept = [int(index) for index in used if wanted(self.names[index])]
        if len(kept) < before:
            self.chosen = np.array(kept, dtype=np.int64)
        return before - len(kept)

    def manifest_rows(self) -> NDArray[np.int64]:
        """Row of the manifest for each used file, -1 for none."""
        if self.manifest is None:
            return np.full(len(self), -1, dtype=np.int64)
        rows = np.arange(len(self.names), dtype=np.int64) if self.rows is None else self.rows
        return rows if self.chosen is None else rows[self.chosen]

    def choose_by_caption(self) -> None:
        """Use only files that have a caption, if there is a table of captions."""
        captions = self.config.captions
        if captions is None:
            return
        rows = self.manifest_rows()
        if self.manifest is None or (rows < 0).any():
            known = frozenset(captions.select([self.name(index) for index in range(len(self))]))
        elif captions.table is None:
            return
        else:
            manifest, used = self.manifest, range(len(self)) if self.chosen is None else self.chosen
            listed = ((self.names[index], int(row)) for index, row in zip(used, rows, strict=True))
            known = captions.select_listed((name, manifest.has_sidecar(row)) for name, row in listed)
        self.keep(known.__contains__)


class FileTable(Sequence[AudioFile]):
    """All used files of several folders, in order; what it holds in memory does not grow with what has been asked for."""

    known_from = "the manifest"
    finder = "'sat data lint' names all"

    def __init__(self, folders: Sequence[Folder]) -> None:
        self.folders = list(folders)
        self._starts = [0, *accumulate(len(folder) for folder in folders)]

    def __len__(self) -> int:
        return self._starts[-1]

    @overload
    def __getitem__(self, index: int) -> AudioFile: ...

    @overload
    def __getitem__(self, index: slice) -> list[AudioFile]: ...

    def __getitem__(self, index: int | slice) -> AudioFile | list[AudioFile]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(f"file {index} of {len(self)}")
        which = bisect_right(self._starts, index) - 1
        folder = self.folders[which]
        config, name = folder.config, folder.name(index - self._starts[which])
        root = Path(config.path)
        return AudioFile(root / name, root, name, config.captions, config.custom_metadata_fn)

    def known(self, column: str, otherwise: float) -> NDArray[Any]:
        """A column of the manifests, for all files; ``otherwise`` for files that are in none."""
        parts: list[NDArray[Any]] = []
        for folder in self.folders:
            rows = folder.manifest_rows()
            if folder.manifest is None:
                parts.append(np.full(len(rows), otherwise))
            else:
                values = getattr(folder.manifest, column)
                parts.append(np.where(rows >= 0, values[rows.clip(min=0)] if len(values) else otherwise, otherwise))
        return np.concatenate(parts) if parts else np.zeros(0)

    def error(self, index: int) -> str:
        """Why the manifest says that a file cannot be decoded; empty if it says nothing of the kind."""
        which = bisect_right(self._starts, index) - 1
        folder = self.folders[which]
        row = int(folder.manifest_rows()[index - self._starts[which]])
        return folder.manifest.error(row) if folder.manifest is not None and row >= 0 else ""

    def weights(self) -> NDArray[np.float64] | None:
        """How often each file is drawn, relative to others; None if all folders have the same weight."""
        if len({folder.config.weight for folder in self.folders}) < 2:
            return None
        return np.concatenate([np.full(len(folder), folder.config.weight) for folder in self.folders])


def list_files(
    configs: Sequence[LocalDatasetConfig], *, exclude: PathList | None = None, include: PathList | None = None, by_caption: bool = True
) -> FileTable:
    """The files to use: those of every folder, less what the lists, keywords and tables of captions leave out, which the log says.

    Raises:
        DataError: If a folder or list cannot be read, or nothing is left.
    """
    if not configs:
        raise DataError("datasets: the list is empty; give at least one folder")
    if include is not None:
        include.refuse_empty()
    folders = [Folder.open(config) for config in configs]
    num_found = sum(len(folder) for folder in folders)
    for folder in folders:
        _choose(folder, exclude, include)
        if by_caption:
            folder.choose_by_caption()
    for paths in (exclude, include):
        if paths is not None:
            paths.say_what_is_unused()
    table = FileTable(folders)
    if not len(table):
        where = ", ".join(f"{config.path}{other_files(Path(config.path)) if not num_found else ''}" for config in configs)
        left_out = f"; all {num_found} that are there are left out by lists, keywords or captions" if num_found else ""
        raise DataError(f"no audio files in {where}{left_out}")
    logger.info("found %d audio files", len(table))
    return table


def _choose(folder: Folder, exclude: PathList | None, include: PathList | None) -> None:
    root = Path(folder.config.path)
    roots = roots_of(root)
    if exclude is not None:
        count = folder.keep(lambda name: not exclude.means(name, roots))
        logger.info("%s: left out %d files that are in %s", root, count, exclude.file)
    if include is not None:
        count = folder.keep(lambda name: include.means(name, roots))
        logger.info("%s: left out %d files that are not in %s", root, count, include.file)
    if folder.config.keywords:
        words = [word.lower() for word in folder.config.keywords]
        count = folder.keep(lambda name: any(word in name.rsplit("/", 1)[-1].lower() for word in words))
        logger.info("%s: left out %d files whose names hold none of: %s", root, count, ", ".join(folder.config.keywords))
