"""``sat show``: everything about one part."""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import typer


def show(
    family: Annotated[str, typer.Argument(help="Its family, for example 'conditioner'.", show_default=False)],
    name: Annotated[str, typer.Argument(help="Its type, as configs write it.", show_default=False)],
) -> None:
    """Show what a part is and what its config may say: every key with type, default and meaning.

    'sat list' names all families and parts.
    """
    from stable_audio_tools.cli.list_parts import place, plain
    from stable_audio_tools.families import family as find_family

    registry = find_family(family)
    part = registry.part(name)
    print(f"{registry.family} {part.name!r}: {part.qualname}  [{place(part)}]\n")
    print(plain(part.doc.split("\nArgs:")[0].strip()))
    trunk = _trunk(registry.symbol, part)
    if trunk is not None:
        where, model = trunk
        print(f"\n{where}:")
        for line in _trunk_lines(model):
            print(f"  {line}")
        return
    parameters = registry.schema(name).parameters
    print("\nconfig:" if parameters else "\nIt has no options.")
    for parameter in parameters:
        _print(parameter, indent=2)


def _trunk(symbol: str, part: Any) -> tuple[str, Any] | None:
    """Where the typed object stands that is the config of a part, and its class; None if the part's signature is its schema."""
    from stable_audio_tools.config.model import MODEL_CONFIGS, TRUNK_CONFIGS

    if part.facts.get("trunk"):
        return "config", TRUNK_CONFIGS[part.facts["trunk"]]
    config = MODEL_CONFIGS.get(part.name)
    places = {"MODELS": ("model",), "WRAPPERS": ("training",), "DEMOS": ("training", "demo")}.get(symbol)
    if config is None or places is None:
        return None
    model: Any = config
    for key in places:
        model = _class_of(model.model_fields[key].annotation)
    return (".".join(places), model) if hasattr(model, "model_fields") else None


def _trunk_lines(model: Any, indent: str = "") -> Iterator[str]:
    """Keys of a typed object, and of the objects in it. What the ``config`` of a component may say is shown with its part."""
    registry = model.registry() if hasattr(model, "registry") else None
    for key, field in model.model_fields.items():
        kind = _class_of(field.annotation)
        is_object = hasattr(kind, "model_fields")
        default = "required" if field.is_required() else "" if field.default is None or is_object else f"= {_json(field)}"
        yield f"{indent}{key}: {_kind(field.annotation)} {default}".rstrip()
        if is_object:
            yield f"{indent}    {(kind.__doc__ or '').splitlines()[0].replace('`', '')}"
            yield from _trunk_lines(kind, indent + "    ")
        elif registry is not None and key == "type":
            yield f"{indent}    One of: {', '.join(registry.names())}."
        elif registry is not None and key == "config":
            yield f"{indent}    See: sat show {registry.family!r} TYPE"


def _json(field: Any) -> str:
    return json.dumps(field.get_default(call_default_factory=True), default=str)


def _class_of(annotation: Any) -> Any:
    """The object type in ``X | None`` or ``list[X]``; other annotations as they are."""
    choices = [choice for choice in get_args(annotation) if hasattr(choice, "model_fields")]
    return choices[0] if len(choices) == 1 else annotation


def _kind(annotation: Any) -> str:
    """The type of a key of a typed object, as people write it."""
    arguments = get_args(annotation)
    if hasattr(annotation, "model_fields"):
        return "object"
    if get_origin(annotation) is Annotated:
        return _kind(arguments[0])
    if get_origin(annotation) in (Union, UnionType):
        return " | ".join("None" if choice is type(None) else _kind(choice) for choice in arguments)
    return type_name(annotation)


def _print(parameter: Any, *, indent: int) -> None:
    from stable_audio_tools.cli.list_parts import plain
    from stable_audio_tools.registry.signature import COMPUTED

    default = "required" if parameter.is_required else "" if parameter.default is COMPUTED else f"= {json.dumps(parameter.default)}"
    kind = type_name(parameter.annotation) if parameter.options is None else "object"
    print(f"{' ' * indent}{parameter.name}: {kind} {default}".rstrip())
    if parameter.doc:
        print(f"{' ' * (indent + 4)}{plain(parameter.doc)}")
    for option in parameter.options or ():
        _print(option, indent=indent + 4)
    trunk = _object_in_list(parameter.annotation)
    if trunk is not None:
        for line in _trunk_lines(trunk):
            print(f"{' ' * (indent + 4)}{line}")


def _object_in_list(annotation: Any) -> Any:
    """The typed object in ``list[X]``; None if it is anything else."""
    item = next(iter(get_args(annotation)), None)
    return item if get_origin(annotation) is list and hasattr(item, "model_fields") else None


def type_name(annotation: Any) -> str:
    """A type as people write it."""
    from stable_audio_tools.config.base import NUMBERS

    if get_origin(annotation) in (Union, UnionType):
        return " | ".join(type_name(choice) for choice in get_args(annotation))
    if _object_in_list(annotation) is not None:
        return "list of objects"
    text = annotation.__name__ if isinstance(annotation, type) and not hasattr(annotation, "__args__") else str(annotation)
    for long, short in (
        *((str(number), name) for name, number in NUMBERS.items()),
        ("typing.", ""),
        ("collections.abc.", ""),
        ("NoneType", "None"),
    ):
        text = text.replace(long, short)
    return text
