"""``sat list``: what configs can name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def list_parts(
    family: Annotated[str, typer.Argument(help="One family, for example 'conditioners'; without it, all.", show_default=False)] = "",
) -> None:
    """List the parts that configs can name, with one line of documentation and where they are defined."""
    from stable_audio_tools.families import ALL
    from stable_audio_tools.families import family as find_family

    families = [find_family(family)] if family else list(ALL)
    for index, registry in enumerate(families):
        parts = sorted(registry, key=lambda part: part.name)
        print(f"{'' if index == 0 else chr(10)}{registry.family} ({len(parts)})")
        for part in parts:
            print(f"  {part.name:20} {part.summary}  [{_short(part.file)}:{part.line}]")


def _short(file: str) -> str:
    path = Path(file)
    root = Path(__file__).resolve().parents[2]
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
