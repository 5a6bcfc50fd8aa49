"""Manifest: one Parquet row per audio file, so that what was found out about a folder once is not found out again.

Workers do not read Parquet. The columns a dataset needs are kept beside it, uncompressed, in a file that is mapped into memory: a worker
opens a million rows in milliseconds, and what it touches belongs to the operating system's cache, not to the worker.
"""

from __future__ import annotations

import hashlib
import importlib
import logging
import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stable_audio_tools.data.names import Names
from stable_audio_tools.errors import DataError
from stable_audio_tools.optional import require

logger = logging.getLogger(__name__)
MANIFEST_NAME = "manifest.parquet"
COLUMNS = {  # name -> Arrow type
    "path": "string",  # relative to the folder, with forward slashes
    "bytes": "int64",
    "mtime_ns": "int64",
    "sha256": "string",
    "format": "string",
    "num_frames": "int64",
    "duration_seconds": "float64",
    "sample_rate": "int32",
    "num_channels": "int16",
    "peak": "float32",
    "loudness_lufs": "float32",
    "silence_share": "float32",
    "clipped_share": "float32",
    "audible_frames": "int64",
    "caption_source": "string",  # "json", "txt", or the name of the table; null if there is no caption
    "caption_problem": "string",  # why the metadata beside the file cannot be read; null if it can
    "licence": "string",
    "error": "string",  # why it cannot be decoded; null if it can, and then nothing measured is null
}
_MAPPED = ("path", "error", "num_frames", "sample_rate", "audible_frames", "peak", "loudness_lufs", "caption_source")
_STRINGS = ("path", "error", "caption_source")
_NUMPY_TYPES = {"int64": np.int64, "int32": np.int32, "float": np.float32}  # of the mapped columns
_LAYOUT = "1"  # of the mapped file


def arrow(module: str = "pyarrow") -> Any:
    """Pyarrow, or a module of it.

    Raises:
        MissingExtraError: If it is not installed.
    """
    require("pyarrow", extra="data", purpose="manifests of audio files")
    return importlib.import_module(module)


def schema() -> Any:
    """The Arrow schema of a manifest."""
    pa = arrow()
    return pa.schema([(name, pa.type_for_alias(kind)) for name, kind in COLUMNS.items()])


def read_table(path: Path) -> Any:
    """A whole manifest as an Arrow table with exactly the columns of `COLUMNS`.

    Raises:
        DataError: If it is missing, no Parquet file, or lacks columns.
    """
    pa, parquet = arrow(), arrow("pyarrow.parquet")
    try:
        table = parquet.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: cannot be read as a manifest: {str(error).splitlines()[0]}; 'sat data scan' makes one") from error
    lacking = [name for name in COLUMNS if name not in table.column_names]
    if lacking:
        raise DataError(f"{path}: lacks the columns {', '.join(lacking)} of a manifest; 'sat data scan' makes one")
    return table.select(list(COLUMNS)).cast(schema())


def write_table(table: Any, path: Path) -> None:
    """Write a manifest; the file appears only when it is complete."""
    parquet = arrow("pyarrow.parquet")
    _replace(path, lambda temporary: parquet.write_table(table, temporary, compression="zstd"))


class Manifest:
    """An open manifest, for datasets. Pickled as its path: another process maps the same file.

    Args:
        path: The Parquet file.

    Attributes:
        names: Paths relative to the folder, sorted.
        num_frames: (N,) samples per channel; 0 where the file cannot be decoded.
        sample_rate: (N,) Hz.
        audible_frames: (N,) up to the silent tail.
        peak: (N,).
        loudness_lufs: (N,).

    Raises:
        DataError: If it is no manifest.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open()

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.path = state["path"]
        self._open()

    def __len__(self) -> int:
        return len(self.names)

    def error(self, row: int) -> str:
        """Why a file cannot be decoded; empty if it can."""
        return self._errors[row]

    def has_sidecar(self, row: int) -> bool:
        """Whether a file has a caption in a text or JSON file of its own name."""
        return self._caption_sources[row] in ("txt", "json")

    def _open(self) -> None:
        columns = _read_mapped(_mapped_file(self.path))
        self.names, self._errors, self._caption_sources = (Names(*columns[name]) for name in _STRINGS)
        self.num_frames, self.sample_rate, self.audible_frames, self.peak, self.loudness_lufs = (
            columns[name] for name in _MAPPED if name not in _STRINGS
        )


def manifest_of(folder: Path) -> Path | None:
    """The manifest in a folder, if there is one."""
    path = folder / MANIFEST_NAME
    return path if path.is_file() else None


# ---- the mapped file ---------------------------------------------------------------------------------------------------------------------


def _mapped_file(path: Path) -> Path:
    """The mapped file of a manifest, made if there is none of its present state: beside it, or else among temporary files."""
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}; 'sat data scan' makes a manifest") from error
    identity = f"{_LAYOUT}-{status.st_size}-{status.st_mtime_ns}"
    beside = path.with_name(f".{path.name}.mapped")
    digest = hashlib.sha256(str(path.resolve()).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    elsewhere = Path(tempfile.gettempdir(), f"sat-manifest-{os.getuid() if hasattr(os, 'getuid') else ''}-{digest}.mapped")
    for candidate in (beside, elsewhere):
        if _identity(candidate) == identity:
            return candidate
    table = read_table(path)
    try:
        _write_mapped(table, beside, identity)
    except OSError as error:
        logger.debug("%s: cannot be written (%s), using %s", beside, error, elsewhere)
        _write_mapped(table, elsewhere, identity)
        return elsewhere
    return beside


def _identity(file: Path) -> str | None:
    with suppress(OSError, arrow().ArrowException), arrow().memory_map(str(file)) as source:
        metadata = arrow("pyarrow.ipc").open_file(source).schema.metadata or {}
        return metadata.get(b"identity", b"").decode()
    return None


def _write_mapped(table: Any, file: Path, identity: str) -> None:
    """One batch, without nulls or compression, in the order of `path_order`: columns can then be used as they lie in the file."""
    pa, ipc = arrow(), arrow("pyarrow.ipc")
    fields, arrays = [], []
    for name in _MAPPED:
        is_text = name in _STRINGS
        column = table.column(name).cast(pa.large_string()) if is_text else table.column(name)
        column = column.fill_null("" if is_text else 0).combine_chunks()
        column = pa.concat_arrays(column.chunks) if isinstance(column, pa.ChunkedArray) else column
        fields.append((name, column.type))
        arrays.append(column)
    layout = pa.schema(fields, metadata={"identity": identity})

    def write(temporary: Path) -> None:
        with pa.OSFile(str(temporary), "wb") as sink, ipc.new_file(sink, layout) as writer:
            writer.write_batch(pa.record_batch(arrays, schema=layout))

    _replace(file, write)


def _read_mapped(file: Path) -> dict[str, Any]:
    """Columns as arrays over the mapped file: of strings, their offsets and bytes."""
    pa, ipc = arrow(), arrow("pyarrow.ipc")
    with pa.memory_map(str(file)) as source:
        reader = ipc.open_file(source)
        batch = reader.get_batch(0)
    return {name: _text_buffers(batch.column(name)) if name in _STRINGS else _numbers(batch.column(name)) for name in _MAPPED}


def _numbers(column: Any) -> NDArray[Any]:
    """A column without nulls, as it lies in the file. By hand, since Arrow's ``to_numpy`` imports pandas where it is installed: 1 s."""
    _, data = column.buffers()
    dtype = np.dtype(_NUMPY_TYPES[str(column.type)])
    return np.frombuffer(data, dtype=dtype)[: len(column)] if len(column) else np.zeros(0, dtype=dtype)


def _text_buffers(column: Any) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    _, offsets, data = column.buffers()
    if not len(column):
        return np.zeros(1, dtype=np.int64), np.zeros(0, dtype=np.uint8)
    text = np.frombuffer(data, dtype=np.uint8) if data is not None and data.size else np.zeros(0, dtype=np.uint8)
    return np.frombuffer(offsets, dtype=np.int64)[: len(column) + 1], text


def _replace(path: Path, write: Any) -> None:
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
