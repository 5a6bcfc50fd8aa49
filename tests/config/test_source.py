"""JSON with positions: the same data as Python's parser, and where everything stands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stable_audio_tools.config.source import parse_json, read_source
from stable_audio_tools.errors import ConfigError
from stable_audio_tools.registry import Mistake

TEXTS = [
    '{"a": [1, {"b": 2.5e-3}], "c": null, "d": true, "e": false}',
    "  [ ]  ",
    "{}",
    '"a\\u00e9\\n\\"\\ud83d\\ude00 \\\\ /"',
    "-0.5E+3",
    "[-1, 0, 0.0, 1e5, -12.25]",
    '{"":{"":[[],[[]]]}}',
    '{\r\n\t"a" :\t1 ,\r\n "b":2}',
    '{"sch\u00f6n": "\u4f60\u597d"}',
    "[Infinity, -Infinity]",
]


@pytest.mark.parametrize("text", TEXTS)
def test_data_is_what_json_reads(text: str) -> None:
    assert parse_json(text)[0] == json.loads(text)


def test_every_corpus_config_reads_like_json(shared: Path) -> None:
    for file in sorted((shared / "corpus").glob("*_configs/*.json")):
        text = file.read_text(encoding="utf-8-sig")
        assert parse_json(text)[0] == json.loads(text)


@pytest.mark.parametrize("text", TEXTS)
def test_positions_point_at_keys_and_items(text: str) -> None:
    data, positions = parse_json(text)
    lines = text.split("\n")
    for location, (line, column) in positions.items():
        rest = lines[line - 1][column - 1 :]
        node = data
        for item in location:
            node = node[item]
        if location and isinstance(location[-1], str):
            assert rest.startswith(json.dumps(location[-1], ensure_ascii=False))
        else:  # an item, or the whole: the value itself begins here
            assert rest.startswith(("{", "[", '"')) == isinstance(node, (dict, list, str))


def test_every_value_has_a_position() -> None:
    _, positions = parse_json('{"a": [1, {"b": 2}],\n "c": {"d": [[3]]}}')
    assert positions == {
        (): (1, 1), ("a",): (1, 2), ("a", 0): (1, 8), ("a", 1): (1, 11), ("a", 1, "b"): (1, 12),
        ("c",): (2, 2), ("c", "d"): (2, 8), ("c", "d", 0): (2, 14), ("c", "d", 0, 0): (2, 15),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "where", "message"),
    [
        ("", "1:1", "the text ends where a value should be"),
        ("  \n ", "2:2", "the text ends where a value should be"),
        ('{"a": 1,}', "1:9", "expected a key in double quotes (is there a comma too many?)"),
        ('{\n  "a": 1\n  "b": 2\n}', "3:3", "expected ',' or '}'"),
        ("[1, 2", "1:6", "expected ',' or ']'"),
        ("[1, 2,]", "1:7", "expected a value, found ']'"),
        ("{'a': 1}", "1:2", "expected a key in double quotes (is there a comma too many?)"),
        ('{"a" 1}', "1:6", "expected ':' after key 'a'"),
        ('{"a": }', "1:7", "expected a value, found '}'"),
        ('{"a": +1}', "1:7", "expected a value, found '+'"),
        ('{"a": 01}', "1:8", "expected ',' or '}'"),
        ('{"a": 1} {"b": 2}', "1:10", "unexpected text after the end of the JSON value"),
        ('{"a": "b', "1:7", "unterminated string starting at"),
        ('{"a": "\\x"}', "1:8", "invalid \\escape"),
        ('{"a": "b\nc"}', "1:9", "invalid control character at"),
        ('{// a note\n"a": 1}', "1:2", "expected a key in double quotes (is there a comma too many?)"),
        ('{"a": 1,\n "b": 2,\n "a": 3}', "3:2", "key 'a' is given twice in one object"),
        ('{"a": ' + "9" * 5000 + "}", "1:7", "a number of 5000 digits"),
        ("[" * 100_000, "1:1", "objects and lists are nested too deeply"),
        ('{"a":' * 50_000 + "1" + "}" * 50_000, "1:1", "objects and lists are nested too deeply"),
    ],
)
def test_syntax_errors_have_a_position(text: str, where: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_json(text, name="f.json")
    assert str(caught.value) == f"f.json:{where}  not valid JSON: {message}"


def test_one_key_may_stand_in_two_objects_and_notes_may_repeat() -> None:
    assert parse_json('[{"a": 1}, {"a": 2}]')[0] == [{"a": 1}, {"a": 2}]
    assert parse_json('{"_": 1, "_": 2, "comment": 3, "comment": 4}')[0] == {"_": 2, "comment": 4}


# ---- files ---------------------------------------------------------------------------------------------------------------------


def test_a_byte_order_mark_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "f.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    source = read_source(tmp_path / "f.json")
    assert (source.data, source.position(("a",)), source.folder) == ({"a": 1}, (1, 2), tmp_path.resolve())


def test_lines_are_counted_the_same_with_windows_line_ends(tmp_path: Path) -> None:
    (tmp_path / "f.json").write_bytes(b'{\r\n"a": 1,\r\n"b": 2}')
    assert read_source(tmp_path / "f.json").position(("b",)) == (3, 1)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "f.json: no such file"), (b'\xff\xfe{\x00"\x00', "f.json: cannot be read as text: .*utf-8"), (b"{", "f.json:1:2  not valid")],
)
def test_unreadable_files(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "f.json").write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_source(tmp_path / "f.json")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a folder, not a JSON file"):
        read_source(tmp_path)


@pytest.mark.parametrize("value", [[1], None, 3, ("a",)])
def test_what_is_neither_object_nor_path(value: object) -> None:
    with pytest.raises(ConfigError, match="model config: must be an object, or the path of a JSON file, got "):
        read_source(value, name="model config")  # pyright: ignore[reportArgumentType]


# ---- reports -------------------------------------------------------------------------------------------------------------------


def test_reports_follow_the_file_and_missing_keys_stand_at_their_object(tmp_path: Path) -> None:
    (tmp_path / "f.json").write_text('{"b": {"c": 1},\n "a": [1, 2]}', encoding="utf-8")
    source = read_source(tmp_path / "f.json")
    mistakes = [Mistake(("a", 1), "second"), Mistake(("b", "x"), "missing"), Mistake((), "whole"), Mistake(("b", "c"), "deep")]
    assert [line.removeprefix(f"{tmp_path}/") for line in source.report(mistakes)] == [
        "f.json:1:1  whole",
        "f.json:1:2  b.x: missing",
        "f.json:1:8  b.c: deep",
        "f.json:2:11  a[1]: second",
    ]


def test_reports_about_dictionaries_have_no_positions() -> None:
    source = read_source({"a": 1}, name="model config")
    assert source.report([Mistake(("a",), "wrong"), Mistake((), "whole")]) == ["model config: a: wrong", "model config: whole"]
