"""File sets: the files that a folder or a dataset config stands for, with all that their manifest says, brought up to date."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from stable_audio_tools.config.check import refuse_dataset_mistakes
from stable_audio_tools.config.dataset import AudioFolder
from stable_audio_tools.config.source import read_source
from stable_audio_tools.data.audio_dir import local_config
from stable_audio_tools.data.file_table import Folder, list_files
from stable_audio_tools.data.files import path_lists
from stable_audio_tools.data.manifest import MANIFEST_NAME, arrow, manifest_of, read_table
from stable_audio_tools.data.metadata import Captions
from stable_audio_tools.data.progress import FilesProgress
from stable_audio_tools.data.scan import scan
from stable_audio_tools.errors import DataError
from stable_audio_tools.registry.schema import without_comments

OnProgress = Callable[[FilesProgress], None]
_ROWS_AT_A_TIME = 10_000


class Rows(Iterable[Mapping[str, Any]]):
    """Rows of a manifest as dictionaries, made as they are looked at."""

    def __init__(self, table: Any) -> None:
        self._table = table

    def __len__(self) -> int:
        return self._table.num_rows

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        for batch in self._table.to_batches(_ROWS_AT_A_TIME):
            yield from batch.to_pylist()


class FileSet(NamedTuple):
    """Files of one folder."""

    folder: Path
    rows: Rows
    captions: Captions
    """Metadata from files beside the audio."""


def file_sets(source: Path, *, on_progress: OnProgress | None = None) -> list[FileSet]:
    """The files of a folder, or those that an ``audio_dir`` or ``audio_crops`` config would use, with or without caption.

    Files that have changed since the manifest, or are in none, are read; nothing is written.

    Raises:
        ConfigError: If a config has mistakes.
        DataError: If it is of another dataset type, or there are no files.
    """
    if source.is_dir():
        captions = Captions(source)
        return [FileSet(source, Rows(_scanned(source, manifest_of(source), captions, on_progress)), captions)]
    config = read_source(source, name="dataset config")
    refuse_dataset_mistakes(config)
    data = without_comments(config.data)
    if data["dataset_type"] not in ("audio_dir", "audio_crops"):
        raise DataError(
            f"{source}: is a dataset of type {data['dataset_type']!r}; only files of audio_dir and audio_crops can be looked at"
        )
    exclude, include = path_lists(data.get("exclude_paths_file"), data.get("include_paths_file"), config.folder)
    folders = [local_config(AudioFolder.model_validate(folder), config.folder) for folder in data["datasets"]]
    table = list_files(folders, exclude=exclude, include=include, by_caption=False)
    return [_file_set(folder, on_progress) for folder in table.folders]


def _file_set(folder: Folder, on_progress: OnProgress | None) -> FileSet:
    """Rows of the used files of a folder."""
    root = Path(folder.config.path)
    captions = folder.config.captions or Captions(root)
    table = _scanned(root, folder.manifest.path if folder.manifest is not None else None, captions, on_progress)
    names = [folder.name(index) for index in range(len(folder))]
    is_used = arrow("pyarrow.compute").is_in(table.column("path"), value_set=arrow().array(names, arrow().string()))
    return FileSet(root, Rows(table.filter(is_used)), captions)


def _scanned(folder: Path, manifest: Path | None, captions: Captions, on_progress: OnProgress | None) -> Any:
    """The manifest of a folder as it is now, as a table."""
    with tempfile.TemporaryDirectory(prefix="sat-scan-") as scratch:
        output = Path(scratch, MANIFEST_NAME)
        if manifest is not None:
            shutil.copyfile(manifest, output)
        scan(folder, output, captions=captions, on_progress=on_progress)
        return read_table(output)
