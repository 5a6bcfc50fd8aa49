"""Rules between the values of one part's config, stated as a fact where the part is registered.

``@BACKBONES.register("dit", rules=(("multiple", "embed_dim", "num_heads"),))``: each rule is its name, then keys (with dots, in nested
objects). So a contradiction is found without building the part; a rule counts only if all its values are known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

Rule = tuple[str, ...]
Broken = tuple[str, str]  # key, message


def broken(rule: Rule, value: Callable[[str], Any]) -> Iterator[Broken]:
    """Key and message of everything that breaks a rule.

    Args:
        rule: Its name and keys.
        value: Key -> what the config says or the default; None if it is not known.
    """
    name, *keys = rule
    values = [value(key) for key in keys]
    if name == "needs" or None not in values:
        yield from RULES[name](keys, values)


def _multiple(keys: list[str], values: list[Any]) -> Iterator[Broken]:
    if values[0] % values[1]:
        yield keys[0], f"is {values[0]}, but must be a multiple of {keys[1]}, which is {values[1]}"


def _less(keys: list[str], values: list[Any]) -> Iterator[Broken]:
    if not values[0] < values[1]:
        yield keys[0], f"is {values[0]}, but must be less than {keys[1]}, which is {values[1]}"


def _odd(keys: list[str], values: list[Any]) -> Iterator[Broken]:
    """``("odd", key, switch)``: if ``switch`` is on."""
    if values[0] % 2 == 0 and values[1]:
        yield keys[0], f"must be odd, got {values[0]}"


def _lengths(keys: list[str], values: list[Any]) -> Iterator[Broken]:
    for key, items in zip(keys[1:], values[1:], strict=True):
        if len(items) != len(values[0]):
            yield key, f"has {len(items)} items, but {keys[0]} has {len(values[0])}: {list(values[0])}"


def _covers(keys: list[str], values: list[Any]) -> Iterator[Broken]:
    for key, items in zip(keys[1:], values[1:], strict=True):
        if len(items) < len(values[0]):
            yield key, f"has {len(items)} items, but {keys[0]} has {len(values[0])}: {list(values[0])}"


def _at_most(keys: list[str], values: list[Any]) -> Iterator[Broken]:
    for small, large in zip(values[0], values[1], strict=False):
        if small > large:
            yield keys[0], f"{small} is more than {large}, which {keys[1]} has in its place"


def _needs(keys: list[str], values: list[Any]) -> Iterator[Broken]:
    """``("needs", key, wanted, other)``, where ``wanted`` is a value and no key: with it, ``other`` must be given."""
    if values[0] == keys[1] and values[2] is None:
        yield keys[0], f"is {keys[1]!r}, which needs {keys[2]}"


RULES: dict[str, Callable[[list[str], list[Any]], Iterator[Broken]]] = {
    "multiple": _multiple, "less": _less, "odd": _odd, "lengths": _lengths, "at_most": _at_most, "covers": _covers, "needs": _needs,
}  # fmt: skip
