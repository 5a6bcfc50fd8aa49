"""Registries: from a name in a config to the part it names, without importing that part.

A family of interchangeable parts (conditioners, encoders, samplers, ...) has one `Registry`. A part joins it with a decorator::

    @CONDITIONERS.register("loudness")
    class LoudnessConditioner(Conditioner):
        def __init__(self, output_dim: int, *, min_lufs: float = -60.0): ...

The schema of the part's config *is* the signature of its constructor (or of its ``from_config`` class method when JSON and constructor
differ). It is read from the source text, not from the imported class, so that a config can be checked, listed and documented in
milliseconds, without torch. Only `Registry.build` imports a part. A part outside this repository is named ``"my_package.module:Thing"``.
It must say in its source that it is one: by the decorator, or by deriving from a class in the family's homes. So a config cannot call
whatever is installed; building does import the module that it names (and the packages around it), though, which runs their top level.

A registry is a dict with manners. It has no scopes, no global instance and no string interpolation.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, TypeVar

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.registry.live import part_from_object
from stable_audio_tools.registry.schema import Mistake, Schema, unknown_name
from stable_audio_tools.registry.signature import Part, part_in_module, parts_in_file

logger = logging.getLogger(__name__)
PACKAGE = "stable_audio_tools"
Registered = TypeVar("Registered", bound=Callable[..., Any])


class Registry:
    """All parts of one family, by name.

    Args:
        symbol: Name of the variable that holds this registry; decorators are recognised by it.
        family: What one part is called in messages, for example ``"conditioner"``.
        homes: Packages of this library whose modules define the family's parts, for example ``("models.conditioners",)``.
        given: Constructor parameters that the builder supplies. They are part of the schema only if the part says so by naming them
            in ``configurable_given`` (a config may then override what the builder would give).
        configurable_given: The subset of ``given`` that a config may set itself.
    """

    def __init__(
        self, symbol: str, *, family: str, homes: Sequence[str], given: Sequence[str] = (), configurable_given: Sequence[str] = ()
    ) -> None:
        self.symbol = symbol
        self.family = family
        self.homes = tuple(f"{PACKAGE}.{home}" for home in homes)
        self.given = frozenset(given)
        self.configurable_given = frozenset(configurable_given)
        self._live: dict[str, tuple[tuple[str, str], Callable[[], Part]]] = {}  # registered outside the homes
        self._foreign: dict[str, Part] = {}
        self._schemas: dict[str, Schema] = {}

    def register(
        self, name: str, *, renamed: Mapping[str, str] | None = None, ignored: Mapping[str, str] | None = None, **facts: Any
    ) -> Callable[[Registered], Registered]:
        """Decorator that adds a class or function to the family.

        Args:
            name: What configs call it.
            renamed: Old key -> new key; the old one is still accepted, with a warning.
            ignored: Key -> reason; accepted and dropped with a warning, because published configs contain it.
            **facts: Anything callers filter on; ``rules`` are those between its values (see `stable_audio_tools.registry.rules`).
                Literals, or constants of the module, since they are read from the source text.
        """

        def add(thing: Registered) -> Registered:
            here = (thing.__module__, thing.__qualname__)
            known = self._declared.get(name)
            if known is not None and (known.module, known.qualname) == here:
                return thing  # already described from its source text
            described = lru_cache(maxsize=None)(
                lambda: part_from_object(thing, name=name, renamed=renamed or {}, ignored=ignored or {}, facts=facts)
            )
            if known is not None or self._live.get(name, (here, None))[0] != here:
                other = f"{known.file}:{known.line}" if known is not None else ".".join(self._live[name][0])
                raise ConfigError(f"{self.family} {name!r} is registered twice: {other} and {'.'.join(here)}; rename one of them")
            self._live[name] = (here, described)
            self._schemas.pop(name, None)
            return thing

        return add

    @cached_property
    def _declared(self) -> dict[str, Part]:
        """Parts found in the family's homes by reading their source."""
        root = Path(__file__).resolve().parent.parent
        found: dict[str, Part] = {}
        for home in self.homes:
            path = root.joinpath(*home.split(".")[1:])
            files = sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
            for file in files:
                for part in parts_in_file(file, root=root.parent, symbol=self.symbol):
                    if part.name in found:
                        other = found[part.name]
                        raise ConfigError(
                            f"{self.family} {part.name!r} is registered twice: {other.file}:{other.line} and {part.file}:{part.line}; "
                            "rename one of them"
                        )
                    found[part.name] = part
        return found

    def names(self, **facts: Any) -> list[str]:
        """Sorted names of all parts; with ``facts``, of those whose fact contains or equals the value given."""
        return sorted(part.name for part in self if all(_states(part.facts.get(key), value) for key, value in facts.items()))

    def __iter__(self) -> Iterator[Part]:
        yield from self._declared.values()
        yield from (described() for _, described in self._live.values())

    def __contains__(self, name: str) -> bool:
        return name in self._declared or name in self._live or ":" in name

    def part(self, name: str) -> Part:
        """Look a part up by its name or by ``"package.module:Thing"``, without importing it.

        Raises:
            ConfigError: If there is none; the message lists the alternatives.
        """
        part = self._declared.get(name) or self._foreign.get(name)
        if part is not None:
            return part
        if name in self._live:
            return self._live[name][1]()
        if ":" in name:
            self._foreign[name] = part = self._find_foreign(name)
            return part
        raise ConfigError(unknown_name(self.family, name, self.names()))

    def _find_foreign(self, name: str) -> Part:
        module, _, qualname = name.partition(":")
        try:
            part = part_in_module(module, qualname, symbol=self.symbol, homes=self.homes)
        except TypeError as error:
            raise ConfigError(f"{self.family} {name!r}: is no {self.family}: it {error}") from None
        except (ImportError, SyntaxError, OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"{self.family} {name!r}: cannot read module {module!r} ({error}); is it installed, or on PYTHONPATH?"
            ) from error
        if part is None:
            raise ConfigError(f"{self.family} {name!r}: module {module!r} defines no class or function {qualname!r}")
        return part._replace(name=name)

    def schema(self, name: str) -> Schema:
        """What a config of the part may say: the parameters of its constructor that are not supplied by the builder."""
        if name not in self._schemas:
            part = self.part(name)
            hidden = self.given - self.configurable_given
            optional = self.given & self.configurable_given
            self._schemas[name] = Schema(
                title=part.qualname,
                parameters=[p.optional() if p.name in optional else p for p in part.parameters if p.name not in hidden],
                renamed=part.renamed,
                ignored=part.ignored,
                rules=part.facts.get("rules", ()),
            )
        return self._schemas[name]

    def check(self, name: str, config: Mapping[str, Any]) -> list[Mistake]:
        """All mistakes in a part's config, with paths relative to it."""
        return self.schema(name).mistakes(config)

    def load(self, name: str) -> Any:
        """Import the part and return its class or function."""
        part = self.part(name)
        if part.thing is not None:
            return part.thing
        try:
            module = importlib.import_module(part.module)
        except Exception as error:
            raise ConfigError(f"{self.family} {name!r}: importing {part.module} failed: {type(error).__name__}: {error}") from error
        thing: Any = module
        for attribute in part.qualname.split("."):
            thing = getattr(thing, attribute)
        return thing

    def build(self, name: str, config: Mapping[str, Any] | None = None, /, **given: Any) -> Any:
        """Make a part from its config. The config wins over what the builder gives; a part receives those givens that it names.

        Args:
            name: Its name in this family.
            config: Its ``config`` object; read, never written.
            **given: What the builder supplies.

        Raises:
            ConfigError: If the name is unknown or the config is wrong; all mistakes at once.
        """
        part = self.part(name)
        schema = self.schema(name)
        arguments = schema.arguments(config or {}, where=f"{self.family} {name!r}")
        wanted = {parameter.name for parameter in part.parameters}
        for key, value in given.items():
            if key in wanted and key not in arguments:
                arguments[key] = value
        thing = self.load(name)
        return thing.from_config(**arguments) if part.has_from_config else thing(**arguments)


def _states(fact: Any, value: Any) -> bool:
    return value in fact if isinstance(fact, (set, frozenset, list, tuple)) else fact == value
