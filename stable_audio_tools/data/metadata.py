"""Where the metadata of a file comes from: Python modules, a captions table, sidecar files, or one caption for all."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from stable_audio_tools.data.files import NUM_READERS
from stable_audio_tools.data.names import composed
from stable_audio_tools.errors import ConfigError, DataError

logger = logging.getLogger(__name__)
CustomMetadata = Callable[[dict[str, Any], Tensor | None], Mapping[str, Any] | None]
RESERVED = frozenset({"path", "relpath", "timestamps", "seconds_start", "seconds_total", "padding_mask", "sample_rate", "load_time"})
INSTRUCTIONS = frozenset({"__reject__", "__audio__", "__replace__"})  # what only a metadata module can say


class Captions:
    """Metadata from files beside the audio. The sources, later ones winning key by key:

    1. one caption for every file,
    2. a table ``path,caption`` (CSV with a header; ``path`` relative to the audio folder); further columns become metadata too,
    3. a sidecar ``<name>.txt`` with a caption, or ``<name>.json`` with any metadata.

    Args:
        folder: The audio folder.
        table: The CSV file; None takes ``captions.csv`` in the folder, if there is one.
        caption: Caption of files that have no other.
        key: Metadata key of captions.
    """

    def __init__(self, folder: Path, *, table: Path | None = None, caption: str | None = None, key: str = "prompt") -> None:
        self.folder = folder
        self.caption = caption
        self.key = key
        default = folder / "captions.csv"
        self.table = table if table is not None else default if default.is_file() else None
        self.rows = read_captions(self.table, key) if self.table is not None else {}

    def __call__(self, path: Path) -> dict[str, Any]:
        """Metadata of one audio file; without ``key`` if it has no caption.

        Raises:
            DataError: If a file beside it cannot be read, or says something that is no metadata.
        """
        return {key: value for key, value in self._read(path).items() if key not in RESERVED}

    def source(self, name: str) -> tuple[str | None, dict[str, Any]]:
        """Where the caption of a file comes from, and all its metadata.

        Args:
            name: Path of the file, relative to the folder.

        Returns:
            ``"json"``, ``"txt"``, the name of the table, ``"caption"`` (the one for every file), or None if there is no caption.

        Raises:
            DataError: As for a call.
        """
        metadata = self._read(self.folder / name)
        if self.key not in metadata:
            return None, metadata
        path = self.folder / name
        if path.with_suffix(".json").is_file() and self.key in _read_sidecar(path.with_suffix(".json"), self.key):
            return "json", metadata
        if path.with_suffix(".txt").is_file():
            return "txt", metadata
        return (self.table.name if self.table is not None and composed(name) in self.rows else "caption"), metadata

    def select(self, names: Sequence[str]) -> list[str]:
        """Read the metadata of all files, so that mistakes are found before a run begins, and say what is odd about it.

        Args:
            names: Paths of the files, relative to the folder.

        Returns:
            The files that have a caption, if there is a table; otherwise all.

        Raises:
            DataError: As for a call; or if the table is about other files.
        """
        with ThreadPoolExecutor(NUM_READERS) as readers:
            found = dict(zip(names, readers.map(lambda name: self._read(self.folder / name), names), strict=True))
        known = [name for name, metadata in found.items() if self.key in metadata]
        self._say_what_is_odd(found)
        return self._with_caption(known, len(names)) if self.table is not None else list(names)

    def select_listed(self, listed: Iterable[tuple[str, bool]]) -> list[str]:
        """What `select` returns if there is a table, without reading the files beside the audio.

        Args:
            listed: Path of each file, relative to the folder, and whether it is known to have a caption in a file beside it.

        Raises:
            DataError: If the table is about other files.
        """
        known: list[str] = []
        total = 0
        for name, has_sidecar in listed:
            total += 1
            if has_sidecar or self.caption is not None or composed(name) in self.rows:
                known.append(name)
        if 0 < len(known) < total:
            logger.warning("%s: left out %d of %d files that have no caption in %s", self.folder, total - len(known), total, self.table)
        return self._with_caption(known, total)

    def _with_caption(self, known: list[str], total: int) -> list[str]:
        if total and not known:
            raise DataError(f"{self.table}: none of its paths is a file below {self.folder}; paths are relative to that folder")
        return known

    def _say_what_is_odd(self, names: Mapping[str, Mapping[str, Any]]) -> None:
        known = {composed(name) for name in names}
        unused = [name for name in self.rows if name not in known]
        absent = [name for name in unused if not (self.folder / name).is_file()]  # others are left out by a list of files
        if absent and len(absent) < len(self.rows):
            logger.warning("%s: ignored %s, which are no audio files in %s", self.table, _some(absent, len(self.rows), "rows"), self.folder)
        lacking = [name for name, metadata in names.items() if self.key not in metadata]
        if lacking and self.table is not None and len(lacking) < len(names):
            logger.warning(
                "%s: left out %s that have no caption in %s; add them, or give the folder a 'caption'",
                self.folder, _some(lacking, len(names), "files"), self.table,
            )  # fmt: skip
        empty = [name for name, metadata in names.items() if metadata.get(self.key) == ""]
        if empty:
            logger.warning("%s: %s have an empty caption, and are trained on with it", self.folder, _some(empty, len(names), "files"))
        measured = RESERVED & {key for metadata in names.values() for key in metadata}
        if measured:
            logger.warning(
                "%s: ignored %s in the metadata beside the audio, since the dataset measures it; a custom_metadata_module can replace it",
                self.folder, ", ".join(sorted(measured)),
            )  # fmt: skip

    def _read(self, path: Path) -> dict[str, Any]:
        """All that the sources say, also what the dataset will measure itself."""
        metadata: dict[str, Any] = {} if self.caption is None else {self.key: self.caption}
        metadata |= self.rows.get(composed(path.relative_to(self.folder).as_posix()), {})
        text, data = path.with_suffix(".txt"), path.with_suffix(".json")
        if text.is_file():
            metadata[self.key] = _read_text(text).strip()
        if data.is_file():
            metadata |= _read_sidecar(data, self.key)
        return metadata


def _read_sidecar(file: Path, key: str) -> dict[str, Any]:
    try:
        values = json.loads(_read_text(file))
    except json.JSONDecodeError as error:
        raise DataError(f"{file}:{error.lineno}:{error.colno}  not valid JSON: {error.msg}") from error
    if not isinstance(values, dict):
        raise DataError(f"{file}: a metadata file holds an object, got {type(values).__name__}")
    metadata = cast("dict[str, Any]", values)
    if "caption" in metadata and key not in metadata:
        metadata[key] = metadata["caption"]
    if key in metadata and not isinstance(metadata[key], str):
        raise DataError(f"{file}: {key}: a caption is a text, got {metadata[key]!r:.60}")
    _refuse_instructions(file, metadata)
    return metadata


def _refuse_instructions(file: Path, keys: Iterable[str]) -> None:
    for key in INSTRUCTIONS.intersection(keys):
        raise DataError(f"{file}: {key!r} is for the result of a custom_metadata_module; leave it out here")


def _some(names: Sequence[str], total: int, what: str) -> str:
    """How many, and the first few.

    >>> _some(["a", "b", "c", "d"], 9, "files")
    '4 of 9 files (a, b, c, ...)'
    """
    return f"{len(names)} of {total} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"


def read_captions(table: Path, key: str = "prompt") -> dict[str, dict[str, Any]]:
    """Read a captions table: path (with forward slashes) -> metadata.

    Raises:
        DataError: If it is missing, lacks the columns ``path`` and ``caption``, names a file twice, or has a row of another length.
    """
    reader = csv.DictReader(io.StringIO(_read_text(table), newline=""))
    try:
        columns = reader.fieldnames or []
        lines = [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise DataError(f"{table}:{reader.line_num + 1}: not valid CSV: {error}") from error
    caption = next((name for name in ("caption", key) if name in columns), None)
    if "path" not in columns or caption is None:
        raise DataError(f"{table}: needs a header with the columns 'path' and 'caption', got: {', '.join(columns) or 'nothing'}")
    _refuse_instructions(table, columns)
    rows: dict[str, dict[str, Any]] = {}
    for line, row in lines:
        beyond: list[str] = row.get(None) or []  # type: ignore[call-overload]  # where DictReader puts fields that have no column
        if any(beyond):
            raise DataError(
                f"{table}:{line}: {len(columns) + len(beyond)} fields, but the header has {len(columns)}; put a text that has a comma in "
                "double quotes"
            )
        if row["path"] is None or row[caption] is None:
            raise DataError(f"{table}:{line}: fewer fields than the header, which has {len(columns)}: {', '.join(columns)}")
        path = composed(row["path"].replace("\\", "/").removeprefix("./"))
        if path in rows:
            raise DataError(f"{table}:{line}: {path!r} is named twice")
        others = {name: value for name, value in row.items() if name and value is not None and name not in ("path", caption)}
        rows[path] = {**others, key: row[caption].strip()}
    return rows


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: cannot be read as UTF-8 text: {error}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read as UTF-8 text: {error.strerror}") from error


class MetadataModule:
    """A user's ``get_custom_metadata(info, audio)``, loaded from a Python file when it is first called (so workers can load it anew).

    Args:
        path: The Python file.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise ConfigError(f"custom_metadata_module: {path}: no such file")
        if path.suffix != ".py":
            raise ConfigError(f"custom_metadata_module: {path}: is no Python file; its name must end in .py")
        self.path = path
        self._function: CustomMetadata | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_function": None}

    def __call__(self, info: dict[str, Any], audio: Tensor | None) -> Mapping[str, Any]:
        """Metadata for one item, given what is known of it so far."""
        if self._function is None:
            self._function = self.load()
        try:
            result = self._function(info, audio)
        except Exception as error:  # whatever a user's code may raise, the file at which it did is what helps
            raise DataError(f"{self.path}: get_custom_metadata failed for {info.get('path')}: {type(error).__name__}: {error}") from error
        if result is None:
            return {}
        if not isinstance(result, Mapping):
            raise DataError(
                f"{self.path}: get_custom_metadata must return a dictionary, got {type(result).__name__} for {info.get('path')}"
            )
        return result

    def load(self) -> CustomMetadata:
        """Run the file and return its function.

        Raises:
            ConfigError: If the file fails to run or does not define the function.
        """
        spec = importlib.util.spec_from_file_location("metadata_module", self.path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            raise ConfigError(f"custom_metadata_module: {self.path}: {type(error).__name__}: {error}") from error
        function = getattr(module, "get_custom_metadata", None)
        if not callable(function):
            raise ConfigError(f"custom_metadata_module: {self.path}: must define get_custom_metadata(info, audio)")
        return cast("CustomMetadata", function)
