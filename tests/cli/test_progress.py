"""One line that says how far a command is: on a terminal, and in a log."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from stable_audio_tools.cli import progress
from stable_audio_tools.cli.progress import ProgressLine
from stable_audio_tools.data.progress import FilesProgress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_line_changes_on_a_terminal_and_ends_before_what_follows(
    clock: list[float], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)

    def work() -> None:
        with ProgressLine() as line:
            for number, seconds in enumerate((0.05, 0.1, 0.05, 0.2)):
                clock[0] += seconds
                line.show(f"{'long ' * (number == 1)}{number}")
            line.show("end")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert capsys.readouterr().err == "\rlong 1\r3     \rend\n", "what was longer is wiped out"


@pytest.mark.parametrize(("is_end_told", "told"), [(False, "1\n3\n4\n"), (True, "1\n3\n4\n")])
def test_a_log_gets_a_line_every_half_minute(clock: list[float], capsys: Any, is_end_told: bool, told: str) -> None:
    with ProgressLine(is_end_told=is_end_told) as line:
        for number in range(5):
            clock[0] += 16
            line.show(str(number))
    assert capsys.readouterr().err == told


@pytest.mark.parametrize(("is_end_told", "told"), [(False, ""), (True, "2\n")])
def test_a_short_command_says_nothing_in_a_log_or_only_its_end(clock: list[float], capsys: Any, is_end_told: bool, told: str) -> None:
    with ProgressLine(is_end_told=is_end_told) as line:
        for number in range(3):
            line.show(str(number))
    assert capsys.readouterr().err == told


def test_progress_says_how_far_how_fast_and_how_long() -> None:
    progress = FilesProgress(num_done=150, num_files=1000, num_read=50, num_bytes=500_000_000, seconds=10.0)
    assert str(progress) == "150 of 1000 files, 5 files/s, 50 MB/s, 0:02:50 left"
    assert str(FilesProgress(1, 36_001, 1, 1.0, 0)).endswith(", 10:00:00 left")
