"""``sat data scan``: write the manifest of a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stable_audio_tools.cli.progress import FilesLine
from stable_audio_tools.errors import counted


def scan(
    folder: Annotated[Path, typer.Argument(help="A folder of audio files.", show_default=False)],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The manifest; by default manifest.parquet in the folder, where datasets look.")
    ] = None,
    captions: Annotated[
        Path | None,
        typer.Option("--captions", "--captions-file", help="CSV table path,caption; by default captions.csv in the folder."),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", min=1, help="Files to read at the same time; by default one per processor.")
    ] = None,
) -> None:
    """Write a Parquet manifest: size, hash, format, length, rate, channels, peak, loudness, silence, caption and licence of every file.

    Files that have not changed since the manifest before are not read again. A scan that is stopped goes on where it was.
    """
    from stable_audio_tools.data import scan as scanning
    from stable_audio_tools.data.metadata import Captions

    table = Captions(folder, table=captions)
    with FilesLine() as progress:
        report = scanning.scan(folder, output, captions=table, jobs=jobs, on_progress=progress)
    kept = report.num_files - report.num_read
    print(f"{report.manifest}: {counted(report.num_files, 'file')}, {report.num_read} read, {kept} unchanged, {report.num_gone} gone")
    if report.num_unreadable:
        print(f"{counted(report.num_unreadable, 'file')} cannot be decoded; 'sat data lint' says which and why")
