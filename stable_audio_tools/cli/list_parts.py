"""``sat list``: what configs can name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from stable_audio_tools.registry import Part


def list_parts(
    family: Annotated[str, typer.Argument(help="One family, for example 'conditioners'; without it, all.", show_default=False)] = "",
) -> None:
    """List the parts that configs can name, with one line of documentation and where they are defined.

    'sat show FAMILY NAME' says everything about one of them.
    """
    from stable_audio_tools.families import ALL
    from stable_audio_tools.families import family as find_family

    families = [find_family(family)] if family else list(ALL)
    for index, registry in enumerate(families):
        parts = sorted(registry, key=lambda part: part.name)
        width = max(20, *(len(part.name) for part in parts))
        print(f"{'' if index == 0 else chr(10)}{registry.family} ({len(parts)})")
        for part in parts:
            print(f"  {part.name:{width}} {_summary(part)}  [{place(part)}]")


def _summary(part: Part) -> str:
    """The first sentence of its documentation, and what it can be used with if it says so."""
    sentence = plain(part.summary.split(". ")[0])
    objectives = part.facts.get("objectives")
    return sentence.rstrip(".") + (f"; for {', '.join(objectives)}" if objectives else "")


def plain(text: str) -> str:
    """Documentation without its marks for code."""
    return text.replace("`", "")


def place(part: Part) -> str:
    """Where a part is defined: relative to the folder that holds this package, if it lies there."""
    path = Path(part.file)
    root = Path(__file__).resolve().parents[2]
    return f"{path.relative_to(root) if path.is_relative_to(root) else path}:{part.line}"
