"""Signatures of live objects: parts defined in a notebook or a test, of which there is no source file to read.

The description is the one that `signature` reads from source text; a contract test holds that both agree for every part of this library.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.registry.signature import OPAQUE, Parameter, Part, argument_docs, marker_of


def part_from_object(
    thing: Callable[..., Any], *, name: str, renamed: Mapping[str, str], ignored: Mapping[str, str], facts: Mapping[str, Any]
) -> Part:
    """Describe a live class or function as a `Part`."""
    has_from_config = "from_config" in vars(thing)
    try:
        file, line = inspect.getsourcefile(thing) or "<unknown>", inspect.getsourcelines(thing)[1]
    except (OSError, TypeError):
        file, line = f"<{thing.__module__}>", 0
    doc = inspect.getdoc(thing) or ""
    return Part(
        name=name,
        module=thing.__module__,
        qualname=thing.__qualname__,
        file=file,
        line=line,
        doc=doc,
        parameters=tuple(_parameters(thing.from_config if has_from_config else thing, argument_docs(doc))),  # type: ignore[attr-defined]
        has_from_config=has_from_config,
        renamed=dict(renamed),
        ignored=dict(ignored),
        facts=dict(facts),
        thing=thing,
    )


def _parameters(constructor: Any, docs: Mapping[str, str]) -> Iterator[Parameter]:
    function = constructor.__init__ if inspect.isclass(constructor) else constructor
    if inspect.isclass(constructor) and (getattr(function, "__module__", None) or "").split(".")[0] in OPAQUE:
        return  # it has no constructor of its own
    scope = dict(inspect.unwrap(getattr(function, "__func__", function)).__globals__)
    docs = {**docs, **argument_docs(inspect.getdoc(function) or "")}
    signature = inspect.signature(constructor)
    for parameter in signature.parameters.values():
        annotation = _hint(parameter.annotation, scope)
        marker = marker_of(annotation)
        if parameter.kind is parameter.VAR_POSITIONAL or (parameter.kind is parameter.VAR_KEYWORD and marker is None):
            stars = "*" if parameter.kind is parameter.VAR_POSITIONAL else "**"
            where = f"{constructor.__module__}.{constructor.__qualname__}"
            raise ConfigError(f"{where}: {stars}{parameter.name} in a configurable signature would swallow mistakes")
        options: tuple[Parameter, ...] | None = None
        if marker is not None:
            owner = scope[marker.owner]
            options = tuple(p for p in _parameters(owner, argument_docs(inspect.getdoc(owner) or "")) if p.keyword_only)
        if parameter.kind is parameter.VAR_KEYWORD:
            yield from (p for p in options or () if p.name not in signature.parameters)
        else:
            is_keyword = parameter.kind is parameter.KEYWORD_ONLY
            yield Parameter(parameter.name, annotation, parameter.default, docs.get(parameter.name, ""), is_keyword, options)


def _hint(annotation: Any, scope: dict[str, Any]) -> Any:
    """A type that may be written as a string; Any if it is missing, or names what only a type checker can see."""
    if annotation is inspect.Parameter.empty:
        return Any
    holder = types.SimpleNamespace(__annotations__={"value": annotation})
    try:
        return typing.get_type_hints(holder, scope, include_extras=True)["value"]
    except (NameError, AttributeError, TypeError):
        return Any
