"""``sat show``: everything about one part."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer


def show(
    family: Annotated[str, typer.Argument(help="Its family, for example 'conditioner'.", show_default=False)],
    name: Annotated[str, typer.Argument(help="Its type, as configs write it.", show_default=False)],
) -> None:
    """Show what a part is and what its config may say: every key with type, default and meaning."""
    from stable_audio_tools.families import family as find_family

    registry = find_family(family)
    part = registry.part(name)
    print(f"{registry.family} {part.name!r}: {part.qualname}  [{part.file}:{part.line}]\n")
    print(part.doc.split("\nArgs:")[0].strip())
    if part.facts.get("trunk"):
        print(f"\nIts config is a {part.facts['trunk']} object: see 'sat schema'.")
        return
    parameters = registry.schema(name).parameters
    print("\nconfig:" if parameters else "\nIt has no options.")
    for parameter in parameters:
        _print(parameter, indent=2)


def _print(parameter: Any, *, indent: int) -> None:
    from stable_audio_tools.registry.signature import COMPUTED

    default = "required" if parameter.is_required else "" if parameter.default is COMPUTED else f"= {json.dumps(parameter.default)}"
    print(
        f"{' ' * indent}{parameter.name}: {type_name(parameter.annotation) if parameter.options is None else 'object'} {default}".rstrip()
    )
    if parameter.doc:
        print(f"{' ' * (indent + 4)}{parameter.doc}")
    for option in parameter.options or ():
        _print(option, indent=indent + 4)


def type_name(annotation: Any) -> str:
    """A type as people write it."""
    text = annotation.__name__ if isinstance(annotation, type) and not hasattr(annotation, "__args__") else str(annotation)
    for long, short in (("typing.", ""), ("collections.abc.", ""), ("NoneType", "None")):
        text = text.replace(long, short)
    return text
