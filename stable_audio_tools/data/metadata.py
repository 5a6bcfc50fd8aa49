"""Where the metadata of a file comes from: Python modules, a captions table, sidecar files, or one caption for all."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from stable_audio_tools.errors import ConfigError, DataError

CustomMetadata = Callable[[dict[str, Any], Tensor | None], Mapping[str, Any] | None]
RESERVED = frozenset({"path", "relpath", "timestamps", "seconds_start", "seconds_total", "padding_mask", "sample_rate", "load_time"})


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
        """Metadata of one audio file; without ``key`` if it has no caption."""
        metadata: dict[str, Any] = {} if self.caption is None else {self.key: self.caption}
        metadata |= self.rows.get(path.relative_to(self.folder).as_posix(), {})
        text, data = path.with_suffix(".txt"), path.with_suffix(".json")
        if text.is_file():
            metadata[self.key] = _read_text(text).strip()
        if data.is_file():
            try:
                values = json.loads(_read_text(data))
            except json.JSONDecodeError as error:
                raise DataError(f"{data}:{error.lineno}:{error.colno}  not valid JSON: {error.msg}") from error
            if not isinstance(values, dict):
                raise DataError(f"{data}: a metadata file holds an object, got {type(values).__name__}")
            if "caption" in values and self.key not in values:
                values[self.key] = values["caption"]
            metadata |= {key: value for key, value in values.items() if key not in RESERVED}
        return metadata


def read_captions(table: Path, key: str = "prompt") -> dict[str, dict[str, Any]]:
    """Read a captions table: path (with forward slashes) -> metadata.

    Raises:
        DataError: If it is missing, lacks the columns ``path`` and ``caption``, or names a file twice.
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
    rows: dict[str, dict[str, Any]] = {}
    for line, row in lines:
        path = (row["path"] or "").replace("\\", "/").removeprefix("./")
        if path in rows:
            raise DataError(f"{table}:{line}: {path!r} is named twice")
        others = {name: value for name, value in row.items() if name and value is not None and name not in RESERVED and name != caption}
        rows[path] = {**others, key: (row[caption] or "").strip()}
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
