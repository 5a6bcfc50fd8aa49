"""A registry: a dict with manners."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import pytest

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.families import CONDITIONERS, SAMPLERS
from stable_audio_tools.registry import Options, Registry
from stable_audio_tools.registry.live import part_from_object
from stable_audio_tools.registry.signature import parts_in_file


@pytest.fixture
def gadgets() -> Registry:
    return Registry("GADGETS", family="gadget", homes=(), given=("width", "rate"), configurable_given=("width",))


class Gear:
    """A wheel with teeth.

    Args:
        width: Given by the builder, unless the config says otherwise.
        teeth: How many.
        rate: Given by the builder.
        sizes: Of the teeth.
    """

    def __init__(self, width: int, teeth: int = 8, *, rate: float = 1.0, sizes: Sequence[int] = (1, 2)) -> None:
        self.width, self.teeth, self.rate, self.sizes = width, teeth, rate, sizes


# ---- names ---------------------------------------------------------------------------------------------------------------------


def test_unknown_name_guesses_or_lists(gadgets: Registry) -> None:
    gadgets.register("gear")(Gear)
    gadgets.register("lever")(lambda: None)
    with pytest.raises(ConfigError, match=r"^unknown gadget 'gaer'; did you mean 'gear'\?$"):
        gadgets.part("gaer")
    with pytest.raises(ConfigError, match=r"^unknown gadget 'xyz'; known: gear, lever$"):
        gadgets.build("xyz")


def test_names_can_be_filtered_by_facts(gadgets: Registry) -> None:
    gadgets.register("gear", moves=("round",), heavy=True)(Gear)
    gadgets.register("lever", moves=("up", "down"))(lambda: None)
    assert gadgets.names() == ["gear", "lever"]
    assert gadgets.names(moves="down") == ["lever"]
    assert gadgets.names(heavy=True) == ["gear"]
    assert gadgets.names(moves="round", heavy=False) == []
    assert set(SAMPLERS.names(objectives="v")).isdisjoint(SAMPLERS.names(objectives="rectified_flow"))


def test_registrations_may_use_constants_of_their_module(tmp_path: Path) -> None:
    text = """
DEAD = {"old": "it had no effect"}
NAMES = [name for name in "ab"]

@GADGETS.register("gear", ignored=DEAD)
@GADGETS.register("wheel", ignored=DEAD, teeth=3)
def gear(): ...
"""
    (tmp_path / "kit.py").write_text(text, encoding="utf-8")
    parts = list(parts_in_file(tmp_path / "kit.py", root=tmp_path, symbol="GADGETS"))
    assert [(part.name, part.ignored, part.facts) for part in parts] == [
        ("gear", {"old": "it had no effect"}, {}),
        ("wheel", {"old": "it had no effect"}, {"teeth": 3}),
    ]
    (tmp_path / "bad.py").write_text(text.replace("ignored=DEAD)", "ignored=NAMES)"), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"bad\.py:5: NAMES is neither a literal nor a constant of this module"):
        list(parts_in_file(tmp_path / "bad.py", root=tmp_path, symbol="GADGETS"))


# ---- registering ---------------------------------------------------------------------------------------------------------------


def test_a_part_registered_live_is_known_checked_and_built(gadgets: Registry) -> None:
    assert gadgets.register("gear")(Gear) is Gear
    assert "gear" in gadgets
    assert [(part.name, part.summary, part.file) for part in gadgets] == [("gear", "A wheel with teeth.", __file__)]
    assert [(m.path, m.message) for m in gadgets.check("gear", {"teht": 3})] == [("teht", "unknown key; did you mean 'teeth'?")]
    assert gadgets.build("gear", {"teeth": 3}, width=5).teeth == 3


def test_the_same_thing_may_be_registered_again(gadgets: Registry) -> None:
    """Modules are reloaded, and cells of notebooks run twice."""
    gadgets.register("gear")(Gear)
    gadgets.register("gear")(Gear)
    assert gadgets.names() == ["gear"]


def test_two_live_parts_of_one_name_are_both_named(gadgets: Registry) -> None:
    gadgets.register("gear")(Gear)

    class Other:
        """Another."""

    with pytest.raises(ConfigError, match=r"gadget 'gear' is registered twice: .*test_registry\.Gear and .*Other; rename one of them"):
        gadgets.register("gear")(Other)


def test_a_live_part_cannot_take_a_declared_name() -> None:
    with pytest.raises(ConfigError, match=r"conditioner 'number' is registered twice: .*number\.py:\d+ and .*Gear; rename one of them"):
        CONDITIONERS.register("number")(Gear)
    assert CONDITIONERS.part("number").qualname == "NumberConditioner"


def test_two_declared_parts_of_one_name_are_both_located() -> None:
    twice = Registry("CONDITIONERS", family="conditioner", homes=("models.conditioners", "models.conditioners"))
    with pytest.raises(ConfigError, match=r"is registered twice: .*\.py:\d+ and .*\.py:\d+; rename one of them"):
        twice.names()


def test_a_home_may_be_a_single_module() -> None:
    shifts = Registry("SHIFTS", family="shift", homes=("sampling.shifts",))
    assert "full" in shifts
    assert shifts.part("full").module == "stable_audio_tools.sampling.shifts"


# ---- building ------------------------------------------------------------------------------------------------------------------


def test_config_wins_over_what_the_builder_gives_if_it_may(gadgets: Registry) -> None:
    gadgets.register("gear")(Gear)
    assert gadgets.build("gear", {}, width=5).width == 5
    assert gadgets.build("gear", {"width": 7}, width=5).width == 7
    with pytest.raises(ConfigError, match="gadget 'gear': rate: unknown key; allowed: width, teeth, sizes"):
        gadgets.build("gear", {"rate": 2.0}, width=5)


def test_a_part_gets_only_what_it_names(gadgets: Registry) -> None:
    gadgets.register("small")(lambda teeth=1: teeth)
    assert gadgets.build("small", width=5, rate=3.0) == 1
    gadgets.register("gear")(Gear)
    assert gadgets.build("gear", width=5, rate=3.0).rate == 3.0


def test_every_mistake_is_reported_at_once(gadgets: Registry) -> None:
    gadgets.register("gear")(Gear)
    with pytest.raises(ConfigError) as caught:
        gadgets.build("gear", {"teeth": "three", "sizes": [1, "x"], "colour": 1}, width=5)
    assert sorted(str(caught.value).splitlines()) == [
        "gadget 'gear': colour: unknown key; allowed: width, teeth, sizes",
        "gadget 'gear': sizes[1]: input should be a valid integer, got 'x'",
        "gadget 'gear': teeth: input should be a valid integer, got 'three'",
    ]


def test_the_config_is_neither_written_nor_shared(gadgets: Registry) -> None:
    gadgets.register("gear")(Gear)
    config: dict[str, Any] = {"_why": "a note", "sizes": [3, 4], "comment": "another"}
    first, second = gadgets.build("gear", config, width=1), gadgets.build("gear", config, width=1)
    first.sizes.append(5)
    assert config == {"_why": "a note", "sizes": [3, 4], "comment": "another"}
    assert second.sizes == [3, 4]


def test_from_config_is_the_schema_where_there_is_one(gadgets: Registry) -> None:
    class Clock:
        """Made of gears."""

        def __init__(self, gears: list[Gear]) -> None:
            self.gears = gears

        @classmethod
        def from_config(cls, *, num_gears: int = 2) -> Clock:
            return cls([Gear(1)] * num_gears)

    gadgets.register("clock")(Clock)
    assert gadgets.schema("clock").keys() == ["num_gears"]
    assert len(gadgets.build("clock", {"num_gears": 3}).gears) == 3


def test_a_class_without_a_constructor_has_no_options(gadgets: Registry) -> None:
    class Stone:
        """Nothing to set."""

    gadgets.register("stone")(Stone)
    assert isinstance(gadgets.build("stone", width=1), Stone)
    assert [m.message for m in gadgets.check("stone", {"teeth": 1})] == ["unknown key"]


# ---- old keys ------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def aged(gadgets: Registry) -> Registry:
    gadgets.register("gear", renamed={"tooth_count": "teeth"}, ignored={"colour": "gears are grey"})(Gear)
    return gadgets


def test_renamed_and_ignored_keys_work_with_a_warning(aged: Registry, library_log: pytest.LogCaptureFixture) -> None:
    config = {"tooth_count": 3, "colour": "red"}
    found = [(m.path, m.message, m.kind) for m in aged.check("gear", config)]
    assert found == [("tooth_count", "'tooth_count' is now called 'teeth'", "warning"), ("colour", "ignored: gears are grey", "warning")]
    assert aged.build("gear", config, width=1).teeth == 3
    assert [record.levelno for record in library_log.records] == [logging.WARNING] * 2
    assert "gadget 'gear': tooth_count: 'tooth_count' is now called 'teeth'" in library_log.text


def test_a_renamed_key_is_still_checked_where_it_stands(aged: Registry) -> None:
    errors = [(m.path, m.message) for m in aged.check("gear", {"tooth_count": "x"}) if m.kind != "warning"]
    assert errors == [("tooth_count", "input should be a valid integer, got 'x'")]


def test_old_and_new_key_together_are_one_mistake(aged: Registry) -> None:
    found = [(m.path, m.message) for m in aged.check("gear", {"tooth_count": 3, "teeth": 4})]
    assert found == [("tooth_count", "'tooth_count' is now called 'teeth', which is given too; remove one")]


# ---- signatures ----------------------------------------------------------------------------------------------------------------


def test_nothing_may_be_swallowed(gadgets: Registry) -> None:
    class Greedy:
        """Takes anything."""

        def __init__(self, teeth: int = 1, **kwargs: Any) -> None: ...

    gadgets.register("greedy")(Greedy)
    gadgets.register("variadic")(lambda *teeth: teeth)
    with pytest.raises(ConfigError, match=r"Greedy: \*\*kwargs in a configurable signature would swallow mistakes"):
        gadgets.check("greedy", {})
    with pytest.raises(ConfigError, match=r"\*teeth in a configurable signature would swallow mistakes"):
        gadgets.build("variadic")


class Axle:
    """What gears turn on.

    Args:
        length: Positional, so not an option of those that have an axle.
        steel: Of steel.
        grease: How often.
    """

    def __init__(self, length: int = 1, *, steel: bool = True, grease: float = 0.5) -> None: ...


class Mill:
    """Has an axle's options once nested, once flat.

    Args:
        axle: Of the big wheel.
        **small: Of the small wheel.
    """

    def __init__(self, axle: Annotated[Mapping[str, Any] | None, Options("Axle")] = None, **small: Annotated[Any, Options("Axle")]) -> None:
        self.axle, self.small = axle, small


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"steel": False, "axle": {"grease": 1.0}}, []),
        ({"axle": None}, []),
        ({"length": 3}, [("length", "unknown key; allowed: axle, steel, grease")]),
        ({"axle": {"length": 3}}, [("axle.length", "unknown key; allowed: steel, grease")]),
        ({"axle": {"grese": 3}}, [("axle.grese", "unknown key; did you mean 'grease'?")]),
        ({"axle": {"steel": 3}}, [("axle.steel", "input should be a valid boolean, got 3")]),
        ({"axle": 3}, [("axle", "input should be an object, got 3")]),
        ({"grease": "x"}, [("grease", "input should be a valid number, got 'x'")]),
    ],
)
def test_options_nested_and_flat(gadgets: Registry, config: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    gadgets.register("mill")(Mill)
    assert [(m.path, m.message) for m in gadgets.check("mill", config)] == expected
    if not expected:
        mill = gadgets.build("mill", config)
        assert {"axle": mill.axle, **mill.small} == {"axle": None, **config}


def test_options_keep_the_docs_of_the_class_they_come_from() -> None:
    part = part_from_object(Mill, name="mill", renamed={}, ignored={}, facts={})
    docs = {p.name: p.doc for p in part.parameters}
    assert docs == {"axle": "Of the big wheel.", "steel": "Of steel.", "grease": "How often."}
