"""The ``conditioning`` section of models."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, ClassVar, cast

from stable_audio_tools.config.base import Component, PositiveInt, Strict
from stable_audio_tools.registry import Mistake, closest
from stable_audio_tools.registry.schema import Location

INJECTED_IDS = ("inpaint_mask", "inpaint_masked_input")  # conditions that training and inference add, not a conditioner


class ConditionerBlock(Component):
    """One condition: the metadata key it reads, and the part that embeds it."""

    family: ClassVar[str] = "CONDITIONERS"
    id: str

    def width(self, cond_dim: int) -> int:
        """Channels of the embedding."""
        width = self.config.get("output_dim", cond_dim)
        return width if type(width) is int else cond_dim  # a wrong one is reported elsewhere


class ConditioningModel(Strict):
    """All conditions of a model."""

    configs: list[ConditionerBlock]
    cond_dim: PositiveInt
    default_keys: dict[str, str] = {}
    pre_encoded_keys: list[str] = []

    def ids(self) -> list[str]:
        """All conditions: those of conditioners, and tensors that come with the data and need none."""
        ids = [block.id for block in self.configs]
        return ids + [key for key in self.pre_encoded_keys if key not in ids]

    def widths(self) -> dict[str, int]:
        """Channels of every condition, by id."""
        return {block.id: block.width(self.cond_dim) for block in self.configs}

    def conflicts(self) -> Iterator[Mistake]:
        ids = [block.id for block in self.configs]
        for index, block in enumerate(self.configs):
            if block.id in ids[:index]:
                yield Mistake(("configs", index, "id"), f"{block.id!r} is used twice; the first one would be lost", "conflict")
            if "." in block.id or not block.id:
                yield Mistake(("configs", index, "id"), f"must be a non-empty name without '.', got {block.id!r}", "conflict")
        for item in self.default_keys:
            if item not in self.ids():
                yield Mistake(("default_keys",), f"{item!r} is not an id in conditioning.configs: {', '.join(ids)}", "conflict")


def unknown_ids(conditioning: ConditioningModel | None, section: str, ids: Mapping[str, Sequence[str]]) -> Iterator[Mistake]:
    """Ids, by the key that lists them in ``section``, that no condition has; and pre-encoded conditions that nothing uses."""
    known = conditioning.ids() if conditioning else []
    for key, names in ids.items():
        for index, name in enumerate(names):
            if name not in known and name not in INJECTED_IDS:
                there = f"; it has: {', '.join(known)}" if known else "; there are none"
                yield Mistake((section, key, index), f"{name!r} is not an id in conditioning.configs{there}", "conflict")
    conditioners = [block.id for block in conditioning.configs] if conditioning else []
    for item in conditioning.pre_encoded_keys if conditioning else []:
        if item not in conditioners and not any(item in names for names in ids.values()):
            there = f"is not an id in conditioning.configs ({', '.join(conditioners)}), and nothing in {section} uses it"
            yield Mistake(("conditioning", "pre_encoded_keys"), f"{item!r} {there}", "conflict")


def wrong_widths(
    conditioning: ConditioningModel | None, section: str, block: Component, ids: Mapping[str, Sequence[str]]
) -> Iterator[Mistake]:
    """Keys of the part in ``section``, by which conditions they are for, that are not the channels these conditions have."""
    widths = conditioning.widths() if conditioning else {}
    for key, names in ids.items():
        wanted = block.value(key)
        for name in names:
            if wanted is not None and name in widths and widths[name] != wanted:
                text = f"is {wanted}, but condition {name!r} has {widths[name]} channels (cond_dim)"
                yield Mistake((section, "config", key), text, "conflict")
                break


def demo_conflicts(conditioning: ConditioningModel | None, demo_cond: Sequence[Mapping[str, Any]]) -> Iterator[Mistake]:
    """Conditions that demos lack, or that a conditioner cannot read: every demo would fail."""
    blocks = [block for block in (conditioning.configs if conditioning else ()) if block.id and "." not in block.id]
    ids, keys = [block.id for block in blocks], conditioning.default_keys if conditioning else {}
    for index, item in enumerate(demo_cond):
        where: Location = ("training", "demo", "demo_cond", index)
        lacks = [name for name in ids if name not in item and keys.get(name, name) not in item]
        if lacks:
            guesses = [guess for name in lacks if (guess := closest(name, [key for key in item if key not in ids]))]
            hint = f"is {guesses[0]!r} a typing error?" if guesses else f"it has: {', '.join(item) or 'nothing'}"
            yield Mistake(where, f"has no {', '.join(map(repr, lacks))}, which the model is conditioned on; {hint}", "conflict")
        for block in blocks:
            key = block.id if block.id in item else keys.get(block.id, block.id)
            reads = block.fact("reads")
            if key in item and reads and not _is_readable(item[key], reads):
                text = f"a {block.type!r} conditioner reads {'numbers' if reads == 'number' else 'text'}, got {item[key]!r:.60}"
                yield Mistake((*where, key), text, "conflict")


def _is_readable(value: Any, reads: str) -> bool:
    items = cast("list[Any]", value) if isinstance(value, list) else [value]
    given: Any = items[0] if len(items) == 1 else items
    if reads == "phonemes" and isinstance(given, list):
        return all(isinstance(item, str) for item in items)
    if reads != "number":
        return isinstance(given, str)
    with suppress(TypeError, ValueError):
        return not isinstance(given, bool) and not math.isnan(float(given))
    return False
