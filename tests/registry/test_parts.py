"""Every part of every family: what is read from its source text is what the live class says."""

from __future__ import annotations

import ast
import json
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import stable_audio_tools
from stable_audio_tools.families import ALL
from stable_audio_tools.registry import Parameter, Part, Registry
from stable_audio_tools.registry.live import part_from_object
from stable_audio_tools.registry.signature import COMPUTED

PACKAGE = Path(stable_audio_tools.__file__).parent
EVERY = [pytest.param(registry, part, id=f"{registry.symbol}-{part.name}") for registry in ALL for part in registry]


def flat(parameters: Sequence[Parameter], prefix: str = "") -> Iterator[tuple[str, Parameter]]:
    """Keys with those of nested options, by path."""
    for parameter in parameters:
        yield prefix + parameter.name, parameter
        yield from flat(parameter.options or (), f"{prefix}{parameter.name}.")


def defaults_of(parameters: Sequence[Parameter]) -> dict[str, Any]:
    """A config that says what the defaults say already, as JSON would hold it."""
    found = {
        p.name: defaults_of(p.options) if p.options else p.default for p in parameters if not p.is_required and p.default is not COMPUTED
    }
    return json.loads(json.dumps(found))


def test_there_are_parts_in_every_family() -> None:
    assert [registry.symbol for registry in ALL if not registry.names()] == []


@pytest.mark.parametrize(("registry", "part"), EVERY)
def test_source_and_live_class_agree(registry: Registry, part: Part) -> None:
    thing = registry.load(part.name)
    live = part_from_object(thing, name=part.name, renamed=part.renamed, ignored=part.ignored, facts=part.facts)
    assert (part.module, part.qualname, part.doc, part.has_from_config) == (live.module, live.qualname, live.doc, live.has_from_config)
    assert (part.file, part.summary) == (live.file, live.summary)
    read, known = dict(flat(part.parameters)), dict(flat(live.parameters))
    assert list(read) == list(known)
    for key, parameter in read.items():
        assert parameter._replace(default=0, annotation=0, options=None) == known[key]._replace(default=0, annotation=0, options=None)
        assert (key, parameter.is_required) == (key, known[key].is_required)
        if parameter.default is COMPUTED:  # nothing that a config could say
            assert callable(known[key].default)
        else:
            assert (key, parameter.default) == (key, known[key].default)
        if parameter.annotation is not Any:  # types of torch and of networks count as Any: no JSON value is one
            assert typing.get_origin(parameter.annotation) == typing.get_origin(known[key].annotation)


@pytest.mark.parametrize(("registry", "part"), EVERY)
def test_is_documented(registry: Registry, part: Part) -> None:
    assert len(part.summary) > 10
    undocumented = [key for key, parameter in flat(registry.schema(part.name).parameters) if not parameter.doc]
    assert undocumented == []


@pytest.mark.parametrize(("registry", "part"), EVERY)
def test_accepts_its_own_defaults(registry: Registry, part: Part) -> None:
    schema = registry.schema(part.name)
    config = defaults_of(schema.parameters)
    missing = [(mistake.path, mistake.kind) for mistake in schema.mistakes(config)]
    assert missing == [(p.name, "missing") for p in schema.parameters if p.is_required]
    if not missing:
        assert json.loads(json.dumps(schema.arguments(config, where="x"))) == config


@pytest.mark.parametrize(("registry", "part"), EVERY)
def test_no_value_confuses_the_check(registry: Registry, part: Part) -> None:
    """Whatever stands where: no crash, and one mistake per place, at or below the key that is wrong."""
    schema = registry.schema(part.name)
    required = {p.name for p in schema.parameters if p.is_required}
    for key in [p.name for p in schema.parameters]:
        for value in (None, "x", -1, 1.5, True, float("nan"), [], [None], ["x", 3], {}, {"x": 1}):
            found = [m for m in registry.check(part.name, {key: value}) if m.kind != "missing" or m.location[0] not in required]
            assert all(mistake.location[0] == key for mistake in found)
            assert len({mistake.location for mistake in found}) == len(found)


MAY_BE_NEGATIVE = {"final_cross_attn_ix", "feature_layer_ix", "min_val", "max_val", "last_epoch"}  # indices and values, not sizes


def _has_bare_int(annotation: Any) -> bool:
    if typing.get_origin(annotation) is typing.Annotated or typing.get_origin(annotation) is typing.Literal:
        return False
    return annotation is int or any(_has_bare_int(branch) for branch in typing.get_args(annotation))


@pytest.mark.parametrize(("registry", "part"), EVERY)
def test_every_whole_number_says_how_small_it_may_be(registry: Registry, part: Part) -> None:
    """A size of zero or less crashes torch, or silently builds nothing."""
    loose = {path for path, p in flat(registry.schema(part.name).parameters) if p.options is None and _has_bare_int(p.annotation)}
    assert {path.rpartition(".")[2] for path in loose} <= MAY_BE_NEGATIVE


def test_no_part_is_registered_outside_its_family_s_homes() -> None:
    """A part elsewhere would work only once its module happened to be imported."""
    registries = {registry.symbol: registry for registry in ALL}
    lost: list[str] = []
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            for decorator in getattr(node, "decorator_list", []):
                owner, _, method = ast.unparse(decorator).partition("(")[0].rpartition(".")
                if method == "register" and owner in registries:
                    name = ast.literal_eval(decorator.args[0])
                    if not any(part.name == name and part.file == str(file) for part in registries[owner]):
                        lost.append(f"{file}: {owner} {name}")
    assert lost == []
