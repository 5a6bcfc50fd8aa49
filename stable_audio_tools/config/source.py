"""Config files as data plus positions: where in the text each key and value stands."""

from __future__ import annotations

import bisect
import json
import re
from collections.abc import Mapping
from json.decoder import scanstring  # type: ignore[attr-defined]  # the C scanner that json itself uses
from pathlib import Path
from typing import Any, NamedTuple, cast

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.registry import Mistake
from stable_audio_tools.registry.schema import Location, is_comment, path_text

NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][-+]?\d+)?")
SPACE = re.compile(r"[ \t\r\n]*")
MAX_DIGITS = 1000  # longer integers are an accident, and Python refuses to read them
LITERALS = {"true": True, "false": False, "null": None, "NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}


class Source(NamedTuple):
    """A config and where it came from.

    Attributes:
        data: The JSON value.
        name: File name for messages, or a description such as ``"model config"``.
        positions: Location -> (line, column), both from 1; the position of the key, or of the item in a list. Empty for Python dicts.
        folder: Folder that relative paths in the config refer to, if it came from a file.
    """

    data: Any
    name: str
    positions: Mapping[Location, tuple[int, int]] = {}
    folder: Path | None = None

    def report(self, mistakes: list[Mistake]) -> list[str]:
        """One line per mistake, in file order: ``file:line:column  path: message``."""
        if not self.positions:
            return [f"{self.name}: {m.path}: {m.message}" if m.location else f"{self.name}: {m.message}" for m in mistakes]
        lines: list[tuple[tuple[int, int], str]] = []
        for mistake in mistakes:
            line, column = self.position(mistake.location)
            where = f"{self.name}:{line}:{column}"
            lines.append(
                (
                    (line, column),
                    f"{where}  {path_text(mistake.location)}: {mistake.message}" if mistake.location else f"{where}  {mistake.message}",
                )
            )
        return [text for _, text in sorted(lines, key=lambda item: item[0])]

    def position(self, location: Location) -> tuple[int, int]:
        """Where a location stands; for a missing key, where its parent stands."""
        while location not in self.positions and location:
            location = location[:-1]
        return self.positions.get(location, (1, 1))


def read_source(config: str | Path | Mapping[str, Any] | Source, *, name: str = "config") -> Source:
    """Read a JSON file, or take a dict, or what was read before, as it is.

    Args:
        config: Path of a JSON file, or the config itself.
        name: What to call a dict in messages.

    Raises:
        ConfigError: If it is neither, or the file cannot be read or is not JSON; the message then has the line and column.
    """
    if isinstance(config, Source):
        return config
    if isinstance(config, Mapping):
        return Source(config, name)
    if not isinstance(config, (str, Path)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigError(f"{name}: must be an object, or the path of a JSON file, got {config!r:.60}")
    path = Path(config)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file") from error
    except IsADirectoryError as error:
        raise ConfigError(f"{path}: is a folder, not a JSON file") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: cannot be read as text: {error}; is it a JSON file, in UTF-8?") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read as text: {error.strerror}") from error
    data, positions = parse_json(text, name=str(path))
    return Source(data, str(path), positions, path.resolve().parent)


def parse_json(text: str, *, name: str = "config") -> tuple[Any, dict[Location, tuple[int, int]]]:
    """Parse JSON and record the position of every key and list item.

    Raises:
        ConfigError: At the first syntax error or duplicate key, as ``name:line:column  message``.

    >>> parse_json('{"a": [1, {"b": 2}]}')[1][("a", 1, "b")]
    (1, 12)
    """
    return _Parser(text, name).parse()


class _Parser:
    """A recursive-descent JSON parser that keeps positions. Python's own gives none."""

    def __init__(self, text: str, name: str) -> None:
        self.text, self.name = text, name
        self.positions: dict[Location, tuple[int, int]] = {}
        self.line_starts = [0, *(match.end() for match in re.finditer("\n", text))]

    def parse(self) -> tuple[Any, dict[Location, tuple[int, int]]]:
        index = self.skip(0)
        self.mark((), index)
        try:
            value, index = self.value(index, ())
        except RecursionError:
            self.fail(index, "objects and lists are nested too deeply")
            raise
        index = self.skip(index)
        if index != len(self.text):
            self.fail(index, "unexpected text after the end of the JSON value")
        return value, self.positions

    def line_column(self, index: int) -> tuple[int, int]:
        line = bisect.bisect_right(self.line_starts, index)
        return line, index - self.line_starts[line - 1] + 1

    def mark(self, location: Location, index: int) -> None:
        self.positions[location] = self.line_column(index)

    def fail(self, index: int, message: str) -> Any:
        line, column = self.line_column(index)
        raise ConfigError(f"{self.name}:{line}:{column}  not valid JSON: {message}")

    def skip(self, index: int) -> int:
        match = SPACE.match(self.text, index)
        return match.end() if match else index

    def value(self, index: int, location: Location) -> tuple[Any, int]:
        char = self.text[index : index + 1]
        if char == "{":
            return self.object(index + 1, location)
        if char == "[":
            return self.array(index + 1, location)
        if char == '"':
            return self.string(index)
        for word, value in LITERALS.items():
            if self.text.startswith(word, index):
                return value, index + len(word)
        match = NUMBER.match(self.text, index)
        if match is None:
            return self.fail(index, f"expected a value, found {char!r}" if char else "the text ends where a value should be")
        number = match.group()
        if not re.fullmatch(r"-?\d+", number):
            return float(number), match.end()
        if len(number) > MAX_DIGITS:
            return self.fail(index, f"a number of {len(number)} digits")
        return int(number), match.end()

    def string(self, index: int) -> tuple[str, int]:
        try:
            return cast("tuple[str, int]", scanstring(self.text, index + 1, True))
        except json.JSONDecodeError as error:
            return self.fail(error.pos, error.msg[0].lower() + error.msg[1:])

    def object(self, index: int, location: Location) -> tuple[dict[str, Any], int]:
        found: dict[str, Any] = {}
        index = self.skip(index)
        if self.text[index : index + 1] == "}":
            return found, index + 1
        while True:
            if self.text[index : index + 1] != '"':
                self.fail(index, "expected a key in double quotes (is there a comma too many?)")
            start = index
            key, index = self.string(index)
            if key in found and not is_comment(key):
                self.fail(start, f"key {key!r} is given twice in one object")
            self.mark((*location, key), start)
            index = self.skip(index)
            if self.text[index : index + 1] != ":":
                self.fail(index, f"expected ':' after key {key!r}")
            found[key], index = self.value(self.skip(index + 1), (*location, key))
            index = self.skip(index)
            char = self.text[index : index + 1]
            if char == "}":
                return found, index + 1
            if char != ",":
                self.fail(index, "expected ',' or '}'")
            index = self.skip(index + 1)

    def array(self, index: int, location: Location) -> tuple[list[Any], int]:
        found: list[Any] = []
        index = self.skip(index)
        if self.text[index : index + 1] == "]":
            return found, index + 1
        while True:
            self.mark((*location, len(found)), index)
            item, index = self.value(index, (*location, len(found)))
            found.append(item)
            index = self.skip(index)
            char = self.text[index : index + 1]
            if char == "]":
                return found, index + 1
            if char != ",":
                self.fail(index, "expected ',' or ']'")
            index = self.skip(index + 1)
