"""``sat data scan``: write the manifest of a folder."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer


def scan(
    folder: Annotated[Path, typer.Argument(help="A folder of audio files.", show_default=False)],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The manifest; by default manifest.parquet in the folder, where datasets look.")
    ] = None,
    captions: Annotated[Path | None, typer.Option(help="CSV table path,caption; by default captions.csv in the folder.")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Files to read at the same time; by default one per processor.")] = None,
) -> None:
    """Write a Parquet manifest: size, hash, format, length, rate, channels, peak, loudness, silence, caption and licence of every file.

    Files that have not changed since the manifest before are not read again. A scan that is stopped goes on where it was.
    """
    from stable_audio_tools.data import scan as scanning
    from stable_audio_tools.data.metadata import Captions

    progress = ProgressLine()
    table = Captions(folder, table=captions)
    report = scanning.scan(folder, output, captions=table, jobs=jobs, on_progress=progress)
    progress.done()
    kept = report.num_files - report.num_read
    print(f"{report.manifest}: {report.num_files} files, {report.num_read} read, {kept} unchanged, {report.num_gone} gone")
    if report.num_unreadable:
        print(f"{report.num_unreadable} cannot be decoded; 'sat data lint' names them")


class ProgressLine:
    """One line on a terminal that says how far a scan is, how fast, and how long it will take."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._last = 0.0

    def __call__(self, progress: Any) -> None:
        """Show it, ten times a second at most."""
        if not self._is_terminal or (progress.seconds - self._last < 0.1 and progress.num_done < progress.num_files):
            return
        self._last = progress.seconds
        print(f"\r{progress_text(progress):<78}", end="", file=sys.stderr, flush=True)

    def done(self) -> None:
        """End the line."""
        if self._last:
            print(file=sys.stderr)


def progress_text(progress: Any) -> str:
    """How far a scan is, in words."""
    seconds = max(progress.seconds, 1e-3)
    num_read = max(1, progress.num_read)
    left = (progress.num_files - progress.num_done) * seconds / num_read
    rate = f"{num_read / seconds:.0f} files/s, {progress.num_bytes / seconds / 1e6:.0f} MB/s"
    return f"{progress.num_done} of {progress.num_files} files, {rate}, {int(left // 60)}:{int(left % 60):02} left"
