"""Schemas: which keys a JSON object may have, and every mistake in one that breaks the rules."""

from __future__ import annotations

import difflib
import logging
import typing
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.registry.rules import Rule, broken
from stable_audio_tools.registry.signature import COMPUTED, Parameter

logger = logging.getLogger(__name__)
Location = tuple[str | int, ...]


class Mistake(NamedTuple):
    """One thing that is wrong with a config.

    Attributes:
        location: Keys and list indices that lead to it.
        message: What is wrong, what was given, what is allowed.
        kind: ``"unknown_key"``, ``"missing"``, ``"value"``, ``"unknown_type"``, ``"conflict"`` or ``"warning"``.
    """

    location: Location
    message: str
    kind: str = "value"

    def under(self, *prefix: str | int) -> Mistake:
        """The same mistake, seen from further up."""
        return self._replace(location=(*prefix, *self.location))

    @property
    def path(self) -> str:
        """The location as people write it: ``model.conditioning.configs[0].type``."""
        return path_text(self.location)


def path_text(location: Location) -> str:
    """``("configs", 0, "id")`` as ``configs[0].id``.

    >>> path_text(("model", "configs", 0, "id"))
    'model.configs[0].id'
    """
    text = ""
    for item in location:
        text += f"[{item}]" if isinstance(item, int) else f".{item}" if text else item
    return text


def closest(name: str, known: Sequence[str]) -> str | None:
    """The most similar known name, or None if nothing is close."""
    matches = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return matches[0] if matches else None


def unknown_name(family: str, name: str, known: Sequence[str]) -> str:
    """The message for a name that no part of the family has."""
    guess = closest(name, known)
    if guess is not None:
        return f"unknown {family} {name!r}; did you mean {guess!r}?"
    return f"unknown {family} {name!r}; known: {', '.join(known)}"


def is_comment(key: str) -> bool:
    """Whether a key is a note to the reader, which every object may hold."""
    return key == "comment" or key.startswith("_")


def without_comments(value: Any) -> Any:
    """A deep copy as plain JSON data (dicts and lists), without comment keys."""
    if isinstance(value, Mapping):
        items = cast("Mapping[Any, Any]", value).items()
        return {key: without_comments(item) for key, item in items if not (isinstance(key, str) and is_comment(key))}
    if isinstance(value, (list, tuple)):
        return [without_comments(item) for item in cast("Sequence[Any]", value)]
    return value


class Schema:
    """The keys one JSON object may have.

    Args:
        title: Name of what it describes.
        parameters: The keys.
        renamed: Old key -> new key, accepted with a warning.
        ignored: Key -> reason, dropped with a warning.
        rules: What must hold between values; see `stable_audio_tools.registry.rules`.
    """

    def __init__(
        self,
        title: str,
        parameters: Sequence[Parameter],
        *,
        renamed: Mapping[str, str] | None = None,
        ignored: Mapping[str, str] | None = None,
        rules: Sequence[Rule] = (),
    ) -> None:
        self.rules = tuple(rules)
        self.title = title
        self.parameters = tuple(parameters)
        self.renamed = dict(renamed or {})
        self.ignored = dict(ignored or {})

    @cached_property
    def model(self) -> type[BaseModel]:
        """The same rules as a pydantic model."""
        fields: dict[str, Any] = {}
        for parameter in self.parameters:
            annotation = parameter.annotation
            if parameter.options is not None:
                annotation = Schema(f"{self.title}_{parameter.name}", parameter.options).model
                annotation = annotation if parameter.is_required else annotation | None
            default = ... if parameter.is_required else None if parameter.default is COMPUTED else parameter.default
            # Aliased, since a parameter may be called like an attribute of pydantic's models: "copy", "json", "schema".
            fields[_field(parameter.name)] = (annotation, Field(default, alias=parameter.name))
        config = ConfigDict(extra="forbid", strict=True, arbitrary_types_allowed=True, protected_namespaces=(), allow_inf_nan=False)
        return create_model(self.title, __config__=config, **fields)

    def keys(self) -> list[str]:
        """All accepted keys, in the order of the signature."""
        return [parameter.name for parameter in self.parameters]

    def value(self, config: Mapping[str, Any], key: str) -> Any:
        """What ``key`` will be: the config's value or the default; None if neither is known."""
        if key in config:
            return config[key]
        default = next((p.default for p in self.parameters if p.name == key and not p.is_required), None)
        return None if default is COMPUTED else default

    def normalised(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """A plain copy with old keys renamed and ignored ones dropped."""
        data = without_comments(config)
        for old, new in self.renamed.items():
            if old in data and old not in self.keys():
                data.setdefault(new, data.pop(old))
        return {key: value for key, value in data.items() if key not in self.ignored or key in self.keys()}

    def mistakes(self, config: Mapping[str, Any]) -> list[Mistake]:
        """Everything wrong with ``config``; also one ``"warning"`` per renamed or ignored key."""
        if not isinstance(config, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
            return [Mistake((), f"must be an object, got {config!r}")]
        renamed = {old: new for old, new in self.renamed.items() if old in config and old not in self.keys()}
        found = [
            Mistake((old,), f"{old!r} is now called {new!r}, which is given too; remove one", "unknown_key")
            if new in config
            else Mistake((old,), f"{old!r} is now called {new!r}", "warning")
            for old, new in renamed.items()
        ]
        found += [
            Mistake((key,), f"ignored: {why}", "warning") for key, why in self.ignored.items() if key in config and key not in self.keys()
        ]
        written = {new: old for old, new in renamed.items() if new not in config}  # as the file writes it
        data = self.normalised(config)
        try:
            self.model.model_validate(data)
        except ValidationError as error:
            for mistake in mistakes_of(error, data, known=self._keys_at):
                key = mistake.location[0] if mistake.location else None
                found.append(mistake._replace(location=(written[key], *mistake.location[1:])) if key in written else mistake)
        wrong = {str(mistake.location[0]) for mistake in found if mistake.location and mistake.kind != "warning"}
        for rule in self.rules:
            if any(key.partition(".")[0] in wrong for key in rule[1:]):
                continue  # a value of the wrong type breaks no rule
            for path, message in broken(rule, lambda path: self._value_at(data, path)):
                held = next((key for key in (path, *rule[1:]) if _holds(data, key.split("."))), path)  # a default stands nowhere
                text = message if held == path else f"{path} {message}"
                if not any(mistake.location == tuple(held.split(".")) for mistake in found):
                    found.append(Mistake(tuple(held.split(".")), text, "conflict"))
        return found

    def _value_at(self, config: Mapping[str, Any], path: str) -> Any:
        """`value`, of a key that may be one of a nested object's."""
        key, _, inner = path.partition(".")
        if not inner:
            return self.value(config, key)
        nested = next((p.options for p in self.parameters if p.name == key), None) or ()
        return Schema(key, nested)._value_at(config.get(key) or {}, inner)

    def _keys_at(self, location: Location) -> list[str]:
        parameters: Sequence[Parameter] = self.parameters
        for depth, item in enumerate(location):
            here = next((p for p in parameters if p.name == item), None)
            if here is None or here.options is None:
                return keys_of(here.annotation, location[depth + 1 :]) if here else []
            parameters = here.options
        return [p.name for p in parameters]

    def arguments(self, config: Mapping[str, Any], *, where: str) -> dict[str, Any]:
        """The config as keyword arguments, each value a copy.

        Raises:
            ConfigError: With every mistake, one per line.
        """
        found = self.mistakes(config)
        for mistake in found:
            if mistake.kind == "warning":
                logger.warning("%s: %s: %s", where, mistake.path, mistake.message)
        errors = [mistake for mistake in found if mistake.kind != "warning"]
        if errors:
            raise ConfigError("\n".join(f"{where}: {mistake.path}: {mistake.message}" for mistake in errors))
        data = self.normalised(config)
        model = self.model.model_validate(data)
        nested = {parameter.name for parameter in self.parameters if parameter.options is not None}
        return {key: data[key] if key in nested else getattr(model, _field(key)) for key in data}


def _holds(config: Any, path: Sequence[str]) -> bool:
    for key in path:
        if not isinstance(config, Mapping) or key not in config:
            return False
        config = cast("Mapping[str, Any]", config)[key]
    return True


def _field(key: str) -> str:
    return f"parameter_{key}"


def mistakes_of(error: ValidationError, data: Any, *, known: Any) -> list[Mistake]:
    """Translate pydantic's errors: paths that exist in the data, one message per place, did-you-mean for unknown keys.

    Args:
        error: What validation raised.
        data: What was validated.
        known: Function from the location of an object to the keys it may have.
    """
    by_location: dict[Location, list[tuple[str, str]]] = {}
    for item in error.errors(include_url=False):
        location = _existing(item["loc"], data, missing_last=item["type"] == "missing")
        if item["type"] == "extra_forbidden":
            guess = closest(str(location[-1]), known(location[:-1]))
            message, kind = f"unknown key{f'; did you mean {guess!r}?' if guess else _allowed(known(location[:-1]))}", "unknown_key"
        elif item["type"] == "missing":
            message, kind = "required key is missing", "missing"
        else:
            text = _plain(item["msg"][0].lower() + item["msg"][1:])
            message, kind = f"{text}, got {_short(item['input'])}", "value"
        entries = by_location.setdefault(location, [])
        if (message, kind) not in entries:
            entries.append((message, kind))
    found: list[Mistake] = []
    for location, entries in by_location.items():
        if any(len(other) > len(location) and other[: len(location)] == location for other in by_location) and entries[0][1] == "value":
            continue  # another branch of a union looked deeper and says it better
        texts = [message for message, _ in entries]
        if len(texts) > 1:  # the branches of a union: say them in one line, the value once
            given = texts[-1].rpartition(", got ")[2]
            texts = [" or ".join(text.rpartition(", got ")[0] for text in texts) + f", got {given}"]
        found.append(Mistake(location, texts[0], entries[0][1]))
    return found


def keys_of(annotation: Any, location: Location) -> list[str]:
    """The keys of the object at ``location`` below a value of this type, as far as pydantic models describe it."""
    model = model_at(annotation, location)
    return [] if model is None else list(model.model_fields)


def model_at(annotation: Any, location: Location) -> type[BaseModel] | None:
    """The pydantic model that describes the object at ``location`` below a value of this type; None if there is none."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        fields = annotation.model_fields
        if not location:
            return annotation
        return model_at(fields[str(location[0])].annotation, location[1:]) if location[0] in fields else None
    inside = location[1:] if location and isinstance(location[0], int) and typing.get_origin(annotation) is not None else location
    found = (model_at(branch, inside) for branch in typing.get_args(annotation))
    return next((model for model in found if model is not None), None)


def _existing(location: tuple[int | str, ...], data: Any, *, missing_last: bool) -> Location:
    """Drop the elements that pydantic adds to a location (names of union branches)."""
    kept: list[str | int] = []
    here = data
    for position, item in enumerate(location):
        is_last = position == len(location) - 1
        if isinstance(item, int) and isinstance(here, list) and item < len(cast("list[Any]", here)):
            here = cast("list[Any]", here)[item]
        elif isinstance(item, str) and isinstance(here, dict) and item in here:
            here = cast("dict[str, Any]", here)[item]
        elif not (missing_last and is_last):
            continue
        kept.append(item)
    return tuple(kept)


def _plain(text: str) -> str:
    """Pydantic's message in words of JSON."""
    text = text.removeprefix("value error, ").replace(" after validation,", ",")
    if "valid dictionary" in text or text.endswith(("instance of Mapping", "as a Mapping value")):
        return "input should be an object"
    if "valid list" in text or text.endswith(("instance of Sequence", "as a Sequence value")):
        return "input should be a list"
    return text


def _allowed(known: Sequence[str]) -> str:
    return f"; allowed: {', '.join(known)}" if known else ""


def _short(value: Any, limit: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
