"""Progress: one line on stderr that says how far a command is."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self

    from stable_audio_tools.data.progress import FilesProgress

_SECONDS_ON_A_TERMINAL, _SECONDS_IN_A_LOG = 0.1, 30.0  # between two lines


class ProgressLine:
    """A line that changes on a terminal. Elsewhere, such as in a log, a new one every half minute, so that short commands say nothing.

    A context manager: what is printed after it begins on a line of its own.

    Args:
        is_end_told: Show the last state even in a log, however short the command was.
    """

    def __init__(self, *, is_end_told: bool = False) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._is_end_told = is_end_told
        self._told = time.monotonic()
        self._text, self._shown = "", ""

    def show(self, text: str) -> None:
        """Say how far it is, unless that was said a moment ago."""
        self._text = text
        if time.monotonic() - self._told >= (_SECONDS_ON_A_TERMINAL if self._is_terminal else _SECONDS_IN_A_LOG):
            self._print()

    def _print(self) -> None:
        self._told = time.monotonic()
        if self._is_terminal:
            print(f"\r{self._text:<{len(self._shown)}}", end="", file=sys.stderr, flush=True)
        else:
            print(self._text, file=sys.stderr, flush=True)
        self._shown = self._text

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._text != self._shown and (self._is_terminal or self._is_end_told or self._shown):
            self._print()
        if self._is_terminal and self._shown:
            print(file=sys.stderr)


class FilesLine(ProgressLine):
    """How many files are done, how fast, and how long the rest will take."""

    def __call__(self, progress: FilesProgress) -> None:
        """Show it."""
        self.show(str(progress))
