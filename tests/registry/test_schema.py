"""Schemas: one mistake per place, in words that help."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from stable_audio_tools.registry import Mistake, Parameter, Schema, closest, unknown_name
from stable_audio_tools.registry.schema import path_text, without_comments


def only(annotation: Any, value: Any) -> Mistake:
    """The one mistake of a schema with one key."""
    (mistake,) = Schema("thing", [Parameter("key", annotation, default=None)]).mistakes({"key": value})
    return mistake


@pytest.mark.parametrize(
    ("annotation", "value", "message"),
    [
        (int, "3", "input should be a valid integer, got '3'"),
        (int, 3.0, "input should be a valid integer, got 3.0"),
        (int, True, "input should be a valid integer, got True"),
        (int, None, "input should be a valid integer, got None"),
        (float, "x", "input should be a valid number, got 'x'"),
        (float, float("nan"), "input should be a finite number, got nan"),
        (float, float("-inf"), "input should be a finite number, got -inf"),
        (bool, 1, "input should be a valid boolean, got 1"),
        (bool, "true", "input should be a valid boolean, got 'true'"),
        (str, 5, "input should be a valid string, got 5"),
        (Literal["a", "b"], "c", "input should be 'a' or 'b', got 'c'"),
        (Annotated[int, Field(gt=0)], 0, "input should be greater than 0, got 0"),
        (list[int], 3, "input should be a list, got 3"),
        (list[int], {"a": 1}, "input should be a list, got {'a': 1}"),
        (Sequence[int], "12", "input should be a list, got '12'"),
        (Sequence[int], 12, "input should be a list, got 12"),
        (dict[str, int], [], "input should be an object, got []"),
        (Mapping[str, int], 3, "input should be an object, got 3"),
        (str, "x" * 100, None),
        (int, "x" * 100, "input should be a valid integer, got '" + "x" * 56 + "..."),
    ],
)
def test_wrong_values_read_as_json_users_speak(annotation: Any, value: Any, message: str | None) -> None:
    schema = Schema("thing", [Parameter("key", annotation, default=None)])
    assert [m.message for m in schema.mistakes({"key": value})] == ([message] if message else [])


@pytest.mark.parametrize(
    ("annotation", "value", "path", "message"),
    [
        (int | list[int], "a", "key", "input should be a valid integer or input should be a list, got 'a'"),
        (int | str, 1.5, "key", "input should be a valid integer or input should be a valid string, got 1.5"),
        (int | list[int], ["a"], "key[0]", "input should be a valid integer, got 'a'"),
        (int | list[int] | None, [3, "a"], "key[1]", "input should be a valid integer, got 'a'"),
        (list[int] | None, "a", "key", "input should be a list, got 'a'"),
        (Literal["auto"] | int, "x", "key", "input should be 'auto' or input should be a valid integer, got 'x'"),
        (dict[str, int] | list[int], {"a": "b"}, "key.a", "input should be a valid integer, got 'b'"),
        (list[int | str], [1.5], "key[0]", "input should be a valid integer or input should be a valid string, got 1.5"),
    ],
)
def test_a_wrong_union_is_one_line(annotation: Any, value: Any, path: str, message: str) -> None:
    mistake = only(annotation, value)
    assert (mistake.path, mistake.message) == (path, message)


@pytest.mark.parametrize("name", ["copy", "json", "schema", "model_config", "model_fields", "validate", "dict"])
def test_keys_may_be_called_like_attributes_of_pydantic(name: str) -> None:
    schema = Schema("thing", [Parameter(name, int, default=1)])
    assert schema.mistakes({name: 2}) == []
    assert schema.arguments({name: 2}, where="x") == {name: 2}
    assert [(m.path, m.kind) for m in schema.mistakes({name: "x"})] == [(name, "value")]


def test_missing_unknown_and_wrong_together() -> None:
    schema = Schema("thing", [Parameter("needed", int), Parameter("length", float, default=1.0)])
    found = {(m.path, m.message, m.kind) for m in schema.mistakes({"lenght": 1, "length": "x", "zzz": 1})}
    assert found == {
        ("needed", "required key is missing", "missing"),
        ("lenght", "unknown key; did you mean 'length'?", "unknown_key"),
        ("length", "input should be a valid number, got 'x'", "value"),
        ("zzz", "unknown key; allowed: needed, length", "unknown_key"),
    }


def test_a_config_that_is_no_object() -> None:
    schema = Schema("thing", [Parameter("key", int, default=1)])
    assert [m.message for m in schema.mistakes([1])] == ["must be an object, got [1]"]  # pyright: ignore[reportArgumentType]


def test_notes_are_fine_at_every_level() -> None:
    schema = Schema("thing", [Parameter("key", dict[str, Any], default={}, options=(Parameter("inner", int, default=1),))])
    config = {"_a": 1, "comment": "b", "key": {"inner": 2, "_c": [], "comment": {"x": 1}}}
    assert schema.mistakes(config) == []
    assert schema.arguments(config, where="x") == {"key": {"inner": 2}}


def test_value_prefers_the_config_to_the_default() -> None:
    schema = Schema("thing", [Parameter("a", int, default=1), Parameter("b", int)])
    assert [schema.value({"a": 5}, key) for key in ("a", "b", "c")] == [5, None, None]
    assert schema.value({}, "a") == 1


def test_without_comments_copies() -> None:
    data = {"a": [{"_x": 1, "b": (1, 2)}], "comment": 3}
    copy = without_comments(data)
    assert copy == {"a": [{"b": [1, 2]}]}
    copy["a"][0]["b"].append(3)
    assert data == {"a": [{"_x": 1, "b": (1, 2)}], "comment": 3}


@pytest.mark.parametrize(
    ("location", "text"),
    [((), ""), (("a",), "a"), (("a", 0, "b"), "a[0].b"), (("a", 1, 2), "a[1][2]"), ((0, "a"), "[0].a")],
)
def test_path_text(location: tuple[str | int, ...], text: str) -> None:
    assert path_text(location) == text


def test_guesses_are_close_or_not_made() -> None:
    assert closest("dept", ["depth", "width"]) == "depth"
    assert closest("zzz", ["depth", "width"]) is None
    assert unknown_name("part", "dept", ["depth", "width"]) == "unknown part 'dept'; did you mean 'depth'?"
    assert unknown_name("part", "zzz", ["depth", "width"]) == "unknown part 'zzz'; known: depth, width"
