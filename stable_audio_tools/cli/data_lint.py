"""``sat data lint``: what is wrong with the files of a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stable_audio_tools.cli.progress import FilesLine
from stable_audio_tools.errors import counted

if TYPE_CHECKING:
    from stable_audio_tools.data.lint import Finding

_MOST_LINES = 20  # of one kind on a terminal
_MOST_ROWS = 1000  # of one kind in a page


def lint(
    sources: Annotated[list[Path], typer.Argument(help="Folders of audio files, or audio_dir configs.", show_default=False)],
    validation: Annotated[
        list[Path] | None, typer.Option(help="Folder or config of validation data, which must share no file with the others.")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with all findings, too.")] = None,
    min_seconds: Annotated[float, typer.Option(min=0, help="Shorter files are reported.")] = 0.1,
    max_seconds: Annotated[float, typer.Option(min=0, help="Longer files are reported.")] = 1800,
    max_silence: Annotated[float, typer.Option(min=0, max=1, help="Files with a larger share of silence are reported.")] = 0.5,
    strict: Annotated[bool, typer.Option("--strict", help="Let warnings, too, set the exit status.")] = False,
) -> None:
    """Find files that cannot be decoded or lie about themselves, silence, clipping, odd lengths, duplicates, missing captions.

    Exit status 1 if there is an error (or, with --strict, a warning). Files that 'sat data scan' has read are not read again.
    """
    from stable_audio_tools.data.file_sets import file_sets
    from stable_audio_tools.data.lint import Limits
    from stable_audio_tools.data.lint import lint as find

    with FilesLine() as progress:
        training = [files for source in sources for files in file_sets(source, on_progress=progress)]
        held_out = [files for source in validation or () for files in file_sets(source, on_progress=progress)]
    limits = Limits(min_seconds=min_seconds, max_seconds=max_seconds, max_silence_share=max_silence)
    found = find(training, held_out, limits=limits)
    num_files = sum(len(files.rows) for files in [*training, *held_out])
    for line in _lines(found):
        print(line)
    print(_summary(found, num_files))
    if html is not None:
        print(f"written: {_write_page(html, found, num_files)}")
    if any(finding.is_error for finding in found) or (strict and found):
        raise typer.Exit(1)


def _summary(found: Sequence[Finding], num_files: int) -> str:
    num_errors = sum(finding.is_error for finding in found)
    return f"{counted(num_files, 'file')}, {counted(num_errors, 'error')}, {counted(len(found) - num_errors, 'warning')}"


def _by_kind(found: Sequence[Finding]) -> dict[str, list[Finding]]:
    kinds: dict[str, list[Finding]] = {}
    for finding in found:
        kinds.setdefault(finding.kind, []).append(finding)
    return kinds


def _lines(found: Sequence[Finding]) -> list[str]:
    from stable_audio_tools.data.lint import KINDS

    lines: list[str] = []
    for kind, findings in _by_kind(found).items():
        level = "error" if KINDS[kind].is_error else "warning"
        lines.append(f"{level}: {KINDS[kind].title} ({len(findings)}): {KINDS[kind].advice}")
        lines += [f"  {finding.path}{': ' + finding.detail if finding.detail else ''}" for finding in findings[:_MOST_LINES]]
        if len(findings) > _MOST_LINES:
            lines.append(f"  ... and {len(findings) - _MOST_LINES} more; --html FILE lists them")
        lines.append("")
    return lines


def _write_page(path: Path, found: Sequence[Finding], num_files: int) -> Path:
    from stable_audio_tools.data.lint import KINDS
    from stable_audio_tools.report.page import Page

    page = Page(path, "Audio files")
    kinds = _by_kind(found)
    page.paragraph(f"{_summary(found, num_files)}.")
    if kinds:
        page.table(
            ["problem", "level", "files"],
            [(KINDS[kind].title, "error" if KINDS[kind].is_error else "warning", len(findings)) for kind, findings in kinds.items()],
        )
    for kind, findings in kinds.items():
        page.heading(f"{KINDS[kind].title} ({len(findings)})")
        page.paragraph(f"What to do: {KINDS[kind].advice}.", is_note=True)
        page.table(["file", "what"], [(finding.path, finding.detail) for finding in findings[:_MOST_ROWS]])
        if len(findings) > _MOST_ROWS:
            page.paragraph(f"... and {len(findings) - _MOST_ROWS} more.")
    return page.write()
