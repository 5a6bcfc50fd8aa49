"""Lint: what is wrong with the audio of a dataset, found in its manifest."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from stable_audio_tools.audio import SILENCE_DB, decibels
from stable_audio_tools.data.file_sets import FileSet

Row = Mapping[str, Any]


class Kind(NamedTuple):
    """A kind of problem."""

    title: str
    is_error: bool
    """Whether it spoils a run or its evaluation; others are warnings."""
    advice: str


KINDS = {
    "undecodable": Kind("cannot be decoded", True, "download or export them again, or remove them"),
    "header": Kind("headers that lie about the length", True, "download or export them again, or remove them"),
    "overlap": Kind("in both training and validation", True, "'sat data split' makes sets that have nothing in common"),
    "metadata": Kind("metadata that cannot be read", True, "mend the file beside the audio"),
    "silent": Kind("silent", True, "remove them"),
    "mislabelled": Kind("another format than the name says", False, "rename them; they are decoded by their content"),
    "mostly_silent": Kind("mostly silent", False, "cut the silence, or set \"strip_silence\" if it is at the end"),
    "clipped": Kind("clipped", False, "look for an earlier copy; clipping is learnt like anything else"),
    "short": Kind("too short", False, "most of such an item is padding"),
    "long": Kind("too long", False, "a pass uses one crop of each file: cut long recordings into pieces"),
    "duplicate": Kind("exact duplicates", False, "keep one of each: the others count as often again"),
    "no_caption": Kind("without caption", False, "add a row to captions.csv or a .txt file, or give the folder a \"caption\""),
}  # fmt: skip

# Containers that each suffix may hold, as decoders call them before the slash.
_CONTAINERS: dict[str, tuple[str, ...]] = {
    ".wav": ("wav", "wavex", "rf64", "w64"), ".wave": ("wav", "wavex", "rf64"), ".flac": ("flac",), ".ogg": ("ogg",), ".oga": ("ogg",),
    ".opus": ("ogg",), ".mp3": ("mp3",), ".aif": ("aiff",), ".aiff": ("aiff",), ".aifc": ("aiff",), ".m4a": ("mov",), ".m4b": ("mov",),
    ".mp4": ("mov",), ".m4v": ("mov",), ".mov": ("mov",), ".aac": ("aac", "mov"), ".wma": ("asf",), ".mka": ("matroska",),
    ".mkv": ("matroska",), ".webm": ("matroska",), ".caf": ("caf",), ".au": ("au",), ".w64": ("w64",), ".rf64": ("rf64",),
    ".wv": ("wv",), ".mp2": ("mp3",),
}  # fmt: skip


@dataclass(frozen=True)
class Limits:
    """What counts as a problem.

    Args:
        min_seconds: Shorter files are too short.
        max_seconds: Longer files are too long.
        max_silence_share: Files with more silence than this are mostly silent.
        max_clipped_share: Files with more clipped samples than this are clipped.
    """

    min_seconds: float = 0.1
    max_seconds: float = 1800.0
    max_silence_share: float = 0.5
    max_clipped_share: float = 1e-4


class Finding(NamedTuple):
    """One problem of one file."""

    kind: str
    path: Path
    detail: str

    @property
    def is_error(self) -> bool:
        """Whether it is an error rather than a warning."""
        return KINDS[self.kind].is_error


def lint(training: Sequence[FileSet], validation: Sequence[FileSet] = (), *, limits: Limits = Limits()) -> list[Finding]:
    """Every problem of the files, in the order of `KINDS`.

    Args:
        training: The files to look at.
        validation: Files that must not be among them; they are looked at too.
        limits: What counts as a problem.
    """
    sets = [*training, *validation]
    found = [Finding(kind, files.folder / row["path"], text) for files in sets for row in files.rows for kind, text in _of_row(row, limits)]
    for part in (training, validation):
        found += _duplicates(part)
    found += _overlap(training, validation)
    order = {kind: place for place, kind in enumerate(KINDS)}
    return sorted(dict.fromkeys(found), key=lambda finding: (order[finding.kind], str(finding.path)))


def _of_row(row: Row, limits: Limits) -> Iterator[tuple[str, str]]:
    """Problems that a file has by itself: kind and detail."""
    if row["caption_problem"] is not None:
        yield "metadata", row["caption_problem"]
    elif row["caption_source"] is None:
        yield "no_caption", ""
    if row["error"] is not None:
        lies = row["error"].startswith("header promises")
        yield ("header" if lies else "undecodable"), row["error"]
        return
    yield from (problem for check in _CHECKS if (problem := check(row, limits)) is not None)


def _format(row: Row, limits: Limits) -> tuple[str, str] | None:
    suffix, container = Path(row["path"]).suffix.lower(), row["format"].split("/")[0].lower()
    expected = _CONTAINERS.get(suffix)
    return None if expected is None or container in expected else ("mislabelled", f"the name says {suffix}, it is {row['format']}")


def _silence(row: Row, limits: Limits) -> tuple[str, str] | None:
    if row["peak"] < 10 ** (SILENCE_DB / 20):
        return "silent", f"peak {_level(row['peak'])}"
    share = row["silence_share"]
    return ("mostly_silent", f"{share:.0%} of it is below {SILENCE_DB:g} dB") if share > limits.max_silence_share else None


def _clipping(row: Row, limits: Limits) -> tuple[str, str] | None:
    share = row["clipped_share"]
    return ("clipped", f"{share:.3%} of the samples, peak {_level(row['peak'])}") if share > limits.max_clipped_share else None


def _length(row: Row, limits: Limits) -> tuple[str, str] | None:
    seconds = row["duration_seconds"]
    if seconds < limits.min_seconds:
        return "short", f"{seconds:.3g} s"
    return ("long", f"{seconds:.3g} s" if seconds < 60 else f"{seconds / 60:.0f} min") if seconds > limits.max_seconds else None


_CHECKS: tuple[Callable[[Row, Limits], tuple[str, str] | None], ...] = (_format, _silence, _clipping, _length)


def _level(peak: float) -> str:
    return "-inf dB" if math.isinf(decibels(peak)) else f"{decibels(peak):+.1f} dB"


def _duplicates(sets: Sequence[FileSet]) -> Iterator[Finding]:
    for paths in _by_content(sets).values():
        for path in paths[1:]:
            yield Finding("duplicate", path, f"the same as {paths[0]}")


def _overlap(training: Sequence[FileSet], validation: Sequence[FileSet]) -> Iterator[Finding]:
    trained = _by_content(training)
    for content, paths in _by_content(validation).items():
        for path in paths if content in trained else ():
            other = trained[content][0]
            yield Finding("overlap", path, "" if other == path else f"the same as {other}")


def _by_content(sets: Sequence[FileSet]) -> dict[str, list[Path]]:
    """Files with the same content, by its hash; a file that is in several sets is there once."""
    found: defaultdict[str, dict[Path, None]] = defaultdict(dict)
    for files in sets:
        for row in files.rows:
            if row["sha256"] is not None and row["bytes"]:
                found[row["sha256"]][files.folder / row["path"]] = None
    return {content: list(paths) for content, paths in found.items()}
