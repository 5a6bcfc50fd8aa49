"""Scan: look at every audio file of a folder once, and write down what it is. Makes the manifest that datasets and reports read."""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from stable_audio_tools.audio import measure
from stable_audio_tools.data.files import find_audio_names, other_files
from stable_audio_tools.data.manifest import COLUMNS, MANIFEST_NAME, arrow, read_table, schema, write_table
from stable_audio_tools.data.metadata import Captions
from stable_audio_tools.data.progress import FilesProgress
from stable_audio_tools.errors import AudioError, DataError

SAVE_SECONDS = 30.0  # how much work a scan that is killed may lose
_CHUNK_BYTES = 1 << 20
_MEASURED = ("format", "num_frames", "duration_seconds", "sample_rate", "num_channels", "peak", "loudness_lufs", "silence_share",
             "clipped_share", "audible_frames")  # fmt: skip
Row = dict[str, Any]


class ScanReport(NamedTuple):
    """What a scan found."""

    manifest: Path
    num_files: int
    num_read: int
    """Files that were new or had changed."""
    num_unreadable: int
    num_gone: int
    """Files of the manifest before that are no longer there."""


def scan(
    folder: Path,
    output: Path | None = None,
    *,
    captions: Captions | None = None,
    jobs: int | None = None,
    on_progress: Callable[[FilesProgress], None] | None = None,
) -> ScanReport:
    """Write the manifest of a folder. Files that are as they were in the manifest before, by size and time, are not read again.

    A scan that is broken off goes on where it was: what it found is kept in ``<manifest>.partial``.

    Args:
        folder: Searched with all its sub-folders.
        output: The manifest; ``manifest.parquet`` in the folder if None.
        captions: Metadata beside the audio; None looks for ``captions.csv`` in the folder, and files of the audio's names.
        jobs: Files to read at the same time; one per processor if None.
        on_progress: Called after every file that was read.

    Raises:
        DataError: If the folder cannot be read or holds no audio, a file has a name that a manifest cannot hold, or the manifest cannot be
            written: before anything is read.
    """
    manifest = output or folder / MANIFEST_NAME
    names = find_audio_names(folder)
    if not names:
        raise DataError(f"{folder}: holds no audio files{other_files(folder)}")
    _refuse_odd_names(folder, names)
    _refuse_unwritable(manifest)
    before = _Known(manifest)
    kept = {name: row for name in names if (row := before.find(folder, name)) is not None}
    left = [name for name in names if name not in kept]
    read = _read_all(folder, left, manifest, jobs=jobs or os.cpu_count() or 1, num_files=len(names), on_progress=on_progress)
    table = _joined(names, before, kept, read)
    table = _with_descriptions(table, names, captions or Captions(folder))
    write_table(table, manifest)
    _partial(manifest).unlink(missing_ok=True)
    num_unreadable = len(names) - table.column("error").null_count
    return ScanReport(manifest, len(names), len(left), num_unreadable, before.count_absent(names))


def read_row(folder: Path, name: str) -> Row:
    """All that a manifest says of one file, but for what stands beside it."""
    path = folder / name
    row: Row = dict.fromkeys(COLUMNS)
    row |= {"path": name, "bytes": 0, "mtime_ns": 0}
    try:
        status = path.stat()
        row |= {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns}
        row["sha256"] = _sha256(path)
        found = measure(path)
    except OSError as error:
        return row | {"error": f"cannot be read: {error.strerror}"}
    except AudioError as error:
        return row | {"error": str(error).removeprefix(f"{path}: ")}
    values = {**found._asdict(), **found.info._asdict()}
    return row | {key: values[key] for key in _MEASURED}


class _Known:
    """What earlier scans found, finished or not."""

    def __init__(self, manifest: Path) -> None:
        found = [read_table(path) for path in (manifest, _partial(manifest)) if path.is_file()]
        self.table = arrow().concat_tables([schema().empty_table(), *found])
        self._rows: dict[str, int] = {path: row for row, path in enumerate(self.table.column("path").to_pylist())}  # the later one counts
        self._sizes, self._times = (self.table.column(name).to_numpy() for name in ("bytes", "mtime_ns"))

    def find(self, folder: Path, name: str) -> int | None:
        """Row of a file; None if it is new or has changed since."""
        row = self._rows.get(name)
        with suppress(OSError):
            status = (folder / name).stat()
            if row is not None and (self._sizes[row], self._times[row]) == (status.st_size, status.st_mtime_ns):
                return row
        return None

    def count_absent(self, names: Sequence[str]) -> int:
        """How many files are not among the names."""
        return len(self._rows.keys() - set(names))


def _refuse_odd_names(folder: Path, names: Sequence[str]) -> None:
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise DataError(f"{folder}: the name {name!r} is not valid UTF-8, which a manifest needs; rename the file") from error


def _refuse_unwritable(manifest: Path) -> None:
    if manifest.is_dir():
        raise DataError(f"{manifest}: is a folder; name a file in it, such as {manifest / MANIFEST_NAME}")
    try:
        manifest.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=manifest.parent).close()
    except OSError as error:
        raise DataError(
            f'{manifest}: cannot be written: {error.strerror}; write it elsewhere with --output, and name it as "manifest" in dataset '
            "configs"
        ) from error


def _joined(names: Sequence[str], before: _Known, kept: Mapping[str, int], read: Sequence[Row]) -> Any:
    """One table of old and new rows, in the order of ``names``."""
    pa = arrow()
    table = pa.concat_tables([before.table.take(pa.array(list(kept.values()), pa.int64())), pa.Table.from_pylist(read, schema=schema())])
    places = {name: place for place, name in enumerate([*kept, *(row["path"] for row in read)])}
    return table.take(pa.array([places[name] for name in names], pa.int64())).combine_chunks()


def _with_descriptions(table: Any, names: Sequence[str], captions: Captions) -> Any:
    """The table with what stands beside the files, which is read anew in every scan."""
    pa = arrow()
    described = [_described(captions, name) for name in names]
    for column in ("caption_source", "caption_problem", "licence"):
        values = pa.array([row[column] for row in described], pa.string())
        table = table.set_column(table.schema.get_field_index(column), column, values)
    return table


def _read_all(
    folder: Path,
    names: Sequence[str],
    manifest: Path,
    *,
    jobs: int,
    num_files: int,
    on_progress: Callable[[FilesProgress], None] | None,
) -> list[Row]:
    """Read files, several at a time, saving what was found every now and then and when it is broken off.

    In threads: decoders and filters leave Python's lock.
    """
    started = saved = time.monotonic()
    rows: list[Row] = []
    num_bytes, num_kept = 0, num_files - len(names)
    try:
        for row in _in_parallel(lambda name: read_row(folder, name), names, jobs):
            rows.append(row)
            num_bytes += row["bytes"]
            if on_progress is not None:
                on_progress(FilesProgress(num_kept + len(rows), num_files, len(rows), time.monotonic() - started, num_bytes))
            if time.monotonic() - saved > SAVE_SECONDS:
                _save(rows, manifest)
                saved = time.monotonic()
    except BaseException:
        if rows:
            _save(rows, manifest)
        raise
    return rows


def _in_parallel(function: Callable[[str], Row], names: Sequence[str], jobs: int) -> Iterator[Row]:
    """Results as they come, without ever having more than a few waiting."""
    left = iter(names)
    readers = ThreadPoolExecutor(jobs)
    try:
        waiting: set[Future[Row]] = set()
        while True:
            waiting |= {readers.submit(function, name) for name in islice(left, 2 * jobs - len(waiting))}
            if not waiting:
                return
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)
    finally:
        readers.shutdown(wait=True, cancel_futures=True)


def _save(rows: Sequence[Row], manifest: Path) -> None:
    write_table(arrow().Table.from_pylist(rows, schema=schema()), _partial(manifest))


def _partial(manifest: Path) -> Path:
    return manifest.with_name(f"{manifest.name}.partial")


def _described(captions: Captions, name: str) -> Row:
    """What stands beside a file."""
    try:
        source, metadata = captions.source(name)
    except DataError as error:
        return {"caption_source": None, "caption_problem": str(error), "licence": None}
    licence = next((str(metadata[key]) for key in ("licence", "license") if metadata.get(key)), None)
    return {"caption_source": source, "caption_problem": None, "licence": licence}


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
