"""The two kinds of config object: typed trunk objects, and components whose ``config`` belongs to a registered part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from stable_audio_tools.families import ALL
from stable_audio_tools.registry import Mistake, Registry, Schema, unknown_name
from stable_audio_tools.registry.schema import Location

PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
Probability = Annotated[float, Field(ge=0, le=1)]


class Strict(BaseModel):
    """A trunk object: fixed keys, typed, immutable."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, protected_namespaces=())

    def conflicts(self) -> Iterator[Mistake]:
        """Contradictions between values that are each fine; locations relative to this object."""
        yield from ()


def part_mistakes(
    registry: Registry, name: str, location: Location, config: Mapping[str, Any] | None, config_location: Location
) -> Iterator[Mistake]:
    """Mistakes in a part that is named by a plain string beside its options, rather than by a component."""
    if name not in registry:
        yield Mistake(location, unknown_name(registry.family, name, registry.names()), "unknown_type")
    elif config is not None:
        for mistake in registry.check(name, config):
            yield mistake.under(*config_location)


class Component(Strict):
    """``{"type": ..., "config": {...}}``: a part of a family, and what its constructor gets."""

    family: ClassVar[str]
    type: str
    config: dict[str, Any] = {}

    @classmethod
    def registry(cls) -> Registry:
        """The family's registry."""
        return next(registry for registry in ALL if registry.symbol == cls.family)

    @property
    def schema_of_part(self) -> Schema:
        """What the part accepts."""
        return self.registry().schema(self.type)

    def value(self, key: str) -> Any:
        """The part's value for ``key``: from the config or its default; None if it has no such parameter."""
        return self.schema_of_part.value(self.config, key)

    def fact(self, name: str) -> Any:
        """What the part states about itself in its registration; None if nothing."""
        return self.registry().part(self.type).facts.get(name)
