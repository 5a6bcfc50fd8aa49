"""The two kinds of config object: typed trunk objects, and components whose ``config`` belongs to a registered part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.families import ALL
from stable_audio_tools.registry import Mistake, Registry, Schema
from stable_audio_tools.registry.schema import Location

# Numbers of trunk objects and of parts' signatures. A size of zero would crash torch, or silently build nothing.
PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
Probability = Annotated[float, Field(ge=0, le=1)]
Window = Annotated[Sequence[Annotated[int, Field(ge=-1)]], Field(min_length=2, max_length=2)]  # steps before and after; -1 is no limit
Pair = Annotated[Sequence[float], Field(min_length=2, max_length=2)]
ListFile = Annotated[str, Field(min_length=1, title="a text file with one path per line")]
Betas = Annotated[Sequence[BelowOne], Field(min_length=2, max_length=2)]
NUMBERS = {  # as people read them
    "int > 0": PositiveInt, "int >= 0": NonNegativeInt, "float > 0": PositiveFloat, "float >= 0": NonNegativeFloat,
    "float in [0, 1]": Probability, "float in [0, 1)": BelowOne, "[steps before, steps after]": Window,
    "[float, float]": Pair, "file of paths": ListFile,
}  # fmt: skip


class Strict(BaseModel):
    """A trunk object: fixed keys, typed, immutable."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, protected_namespaces=(), allow_inf_nan=False)
    refused: ClassVar[Mapping[str, str]] = {}  # key that other programs know -> why it is not taken; of a field, any value but its default

    def conflicts(self) -> Iterator[Mistake]:
        """Contradictions between values that are each fine; locations relative to this object."""
        yield from ()


def part_mistakes(
    registry: Registry, name: Any, location: Location, config: Mapping[str, Any] | None, config_location: Location
) -> Iterator[Mistake]:
    """Mistakes in a part that is named by a plain string beside its options, rather than by a component."""
    if not isinstance(name, str):
        yield Mistake(location, f"input should be a valid string, got {name!r}")
        return
    try:
        for mistake in registry.check(name, config or {}):
            yield mistake.under(*config_location)
    except ConfigError as error:
        yield Mistake(location, str(error), "unknown_type")


class Component(Strict):
    """``{"type": ..., "config": {...}}``: a part of a family, and what its constructor gets."""

    family: ClassVar[str]
    absent: ClassVar[Mapping[str, str]] = {}  # type that other programs know -> why it is not here
    type: str
    config: dict[str, Any] = {}

    @classmethod
    def registry(cls) -> Registry:
        """The family's registry."""
        return next(registry for registry in ALL if registry.symbol == cls.family)

    @property
    def schema_of_part(self) -> Schema | None:
        """What the part accepts; None if there is no such part."""
        with suppress(ConfigError):
            return self.registry().schema(self.type)
        return None

    def value(self, key: str) -> Any:
        """The part's value for ``key``: from the config or its default; None if it has no such parameter, or the value is wrong."""
        schema = self.schema_of_part
        if schema is None or any(m.location[:1] == (key,) and m.kind != "warning" for m in schema.mistakes(self.config)):
            return None
        return schema.value(self.config, key)

    @property
    def is_registered(self) -> bool:
        """Whether the part is known by name. Of others (``"my_package.module:Thing"``, typing errors) there are no facts."""
        return self.type in self.registry() and ":" not in self.type

    def fact(self, name: str) -> Any:
        """What the part states about itself in its registration; None if nothing."""
        return self.registry().part(self.type).facts.get(name) if self.is_registered else None
