"""takes_keys_of(): constructors that take a section of the config, or the same keys as keywords, as scripts write them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, TypeVar

from stable_audio_tools.config.base import Strict
from stable_audio_tools.config.check import parse_block

Decorated = TypeVar("Decorated", bound=type)
LEARNING_RATE = 1e-4  # of a wrapper that is told none: one that is made to load a checkpoint needs none


def takes_keys_of(
    section: type[Strict], parameter: str, *, renamed: Mapping[str, str] | None = None, ignored: Sequence[str] = ()
) -> Callable[[Decorated], Decorated]:
    """Class decorator: the constructor's ``parameter`` may be left out, and the keys of its section be given as keywords instead.

    The section stays the only list of them: `inspect.signature` shows its keys, and their values are checked as in a config.

    Args:
        section: Type of the parameter.
        parameter: Name of the parameter.
        renamed: Keyword -> key of the section that it is another name of.
        ignored: Keywords that have no effect; accepted since published scripts pass them.
    """
    aliases = dict(renamed or {})

    def decorate(cls: Decorated) -> Decorated:
        plain: Any = cls.__init__
        complete = _signature(plain, section, parameter, aliases, ignored)
        keywords = {*section.model_fields, *aliases, *ignored}

        @wraps(plain)
        def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
            given = complete.bind(self, *args, **kwargs).arguments
            keys = {name: given.pop(name) for name in [*given] if name in keywords}
            if given.get(parameter) is None:
                given[parameter] = _section(section, keys, aliases, ignored, cls.__name__)
            elif keys:
                raise TypeError(f"{cls.__name__}: {parameter} holds everything already, so {', '.join(keys)} cannot be given too")
            plain(**given)

        __init__.__signature__ = complete  # type: ignore[attr-defined]
        cls.__init__ = __init__
        return cls

    return decorate


def _signature(plain: Any, section: type[Strict], parameter: str, aliases: Mapping[str, str], ignored: Sequence[str]) -> inspect.Signature:
    own = [item.replace(default=None) if item.name == parameter else item for item in inspect.signature(plain).parameters.values()]
    fields = section.model_fields
    defaults = {name: None if field.is_required() else field.get_default(call_default_factory=True) for name, field in fields.items()}
    defaults |= {alias: defaults[key] for alias, key in aliases.items()} | dict.fromkeys(ignored)
    keywords = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default) for name, default in defaults.items()]
    return inspect.Signature([*own, *keywords])


def _section(section: type[Strict], keys: Mapping[str, Any], aliases: Mapping[str, str], ignored: Sequence[str], name: str) -> Strict:
    """The section that keywords make. None is the default: scripts pass what they do not know as None."""
    options = {aliases.get(key, key): value for key, value in keys.items() if value is not None and key not in ignored}
    if "learning_rate" in section.model_fields and not options.keys() & {"learning_rate", "optimizer_configs"}:
        options["learning_rate"] = LEARNING_RATE
    plain = {key: value.model_dump() if isinstance(value, Strict) else value for key, value in options.items()}
    return parse_block(section, plain, name=name)


__all__ = ["takes_keys_of"]
