"""``sat check``: every mistake in config files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def check(files: Annotated[list[Path], typer.Argument(help="Model or dataset configs (JSON).", show_default=False)]) -> None:
    """Check model and dataset configs: every mistake at once, as file:line:column  path: what is wrong.

    Exit status 1 if there is any mistake; warnings alone are fine.
    """
    from stable_audio_tools.config.check import check_files, check_source
    from stable_audio_tools.config.source import read_source
    from stable_audio_tools.errors import ConfigError

    num_wrong = 0
    for file in files:
        try:
            source = read_source(file)
        except ConfigError as error:
            print(error)
            num_wrong += 1
            continue
        mistakes = [*check_source(source), *check_files(source)]
        errors = [mistake for mistake in mistakes if mistake.kind != "warning"]
        num_wrong += bool(errors)
        for line in source.report(mistakes):
            print(line)
        if not errors:
            print(f"{file}: ok")
    if num_wrong:
        raise typer.Exit(1)
