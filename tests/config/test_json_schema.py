"""The exported JSON Schema says what the check says: checked with a small validator of the keywords that it uses."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import stable_audio_tools
from stable_audio_tools.config.check import check_model_config
from stable_audio_tools.config.json_schema import dataset_schema, model_schema
from stable_audio_tools.config.model import MODEL_CONFIGS
from stable_audio_tools.families import BACKBONES, BOTTLENECKS, CONDITIONERS, DATASETS, DECODERS, DISCRIMINATORS, ENCODERS, PRETRANSFORMS
from stable_audio_tools.registry import Registry

CONFIGS = Path(stable_audio_tools.__file__).parent / "configs"
TYPES: dict[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, (int, float)) and not isinstance(value, bool),
}
BOUNDS: dict[str, Callable[[Any, Any], bool]] = {
    "minimum": lambda value, bound: value >= bound,
    "maximum": lambda value, bound: value <= bound,
    "exclusiveMinimum": lambda value, bound: value > bound,
    "exclusiveMaximum": lambda value, bound: value < bound,
}
NOTES = {"title", "description", "default", "examples", "$schema", "$defs", "then"}


def is_valid(schema: Any, value: Any, root: dict[str, Any]) -> bool:
    """Whether a value obeys a schema. An unknown keyword is an error, so that nothing is passed over."""
    if isinstance(schema, bool):
        return schema
    return all(key in NOTES or KEYWORDS[key](schema, value, root) for key in schema)


def _object(schema: Any, value: Any, root: dict[str, Any]) -> bool:
    if not isinstance(value, dict):
        return True
    for key, item in value.items():
        known = [schema["properties"][key]] if key in schema.get("properties", {}) else []
        known += [inner for pattern, inner in schema.get("patternProperties", {}).items() if re.search(pattern, key)]
        if not all(is_valid(inner, item, root) for inner in known or [schema.get("additionalProperties", True)]):
            return False
    return all(key in value for key in schema.get("required", ()))


def _some(key: str, enough: Callable[[int, int], bool]) -> Callable[..., bool]:
    return lambda schema, value, root: enough(sum(is_valid(inner, value, root) for inner in schema[key]), len(schema[key]))


KEYWORDS: dict[str, Callable[..., bool]] = {
    "type": lambda schema, value, root: TYPES[schema["type"]](value),
    "minLength": lambda schema, value, root: not isinstance(value, str) or len(value) >= schema["minLength"],
    "const": lambda schema, value, root: value == schema["const"],
    "enum": lambda schema, value, root: value in schema["enum"],
    "items": lambda schema, value, root: not isinstance(value, list) or all(is_valid(schema["items"], item, root) for item in value),
    "$ref": lambda schema, value, root: is_valid(root["$defs"][schema["$ref"].removeprefix("#/$defs/")], value, root),
    "if": lambda schema, value, root: not is_valid(schema["if"], value, root) or is_valid(schema["then"], value, root),
    "anyOf": _some("anyOf", lambda found, all_: found > 0),
    "oneOf": _some("oneOf", lambda found, all_: found == 1),
    "allOf": _some("allOf", lambda found, all_: found == all_),
    **dict.fromkeys(("properties", "patternProperties", "additionalProperties", "required"), _object),
    **{key: lambda schema, value, root, key=key, ok=ok: not TYPES["number"](value) or ok(value, schema[key]) for key, ok in BOUNDS.items()},
}


def accepts(schema: dict[str, Any], value: Any) -> bool:
    return is_valid(schema, value, schema)


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    return json.loads(json.dumps(model_schema()))


@pytest.mark.parametrize("path", sorted((CONFIGS / "model_configs").rglob("*.json")), ids=lambda path: path.stem)
def test_shipped_models_are_valid(schema: dict[str, Any], path: Path) -> None:
    assert accepts(schema, json.loads(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("path", sorted((CONFIGS / "dataset_configs").rglob("*.json")), ids=lambda path: path.stem)
def test_shipped_datasets_are_valid(path: Path) -> None:
    config = json.loads(path.read_text(encoding="utf-8"))
    config["datasets"][0]["_note"] = "fine"
    assert accepts(dataset_schema(), config)
    config["datasets"][0]["pth"] = "x"
    assert not accepts(dataset_schema(), config)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("sample_rat", 1),
        ("sample_rate", "44100"),
        ("sample_rate", 0),
        ("model.io_chanels", 1),
        ("model.diffusion.config.dept", 1),
        ("model.diffusion.config.attn_kwargs", {"qk_nrm": "ln"}),
        ("model.diffusion.config.attn_kwargs", {"qk_norm": "lnn"}),
        ("model.diffusion.config.sliding_window", "a"),
        ("model.conditioning.configs.0.config.max_len", 1),
        ("model.conditioning.configs.1.config.max_val", "loud"),
        ("model.conditioning.configs.1.id", None),
        ("model.pretransform.config.encoder.config.stride", [2]),
        ("model.pretransform.config.latent_dim", "32"),
        ("model.pretransform.config.bottleneck.config", {"x": 1}),
        ("training.cfg_dropout_prob", 2),
        ("training.demo.demo_cfg_scales", 4),
    ],
)
def test_what_the_check_refuses_is_invalid(schema: dict[str, Any], small_text: dict[str, Any], edited: Any, path: str, value: Any) -> None:
    broken = edited(small_text, {path: value})
    assert [mistake for mistake in check_model_config(broken) if mistake.kind != "warning"] != []
    assert not accepts(schema, broken)


def test_notes_are_valid_at_every_level(schema: dict[str, Any], small_text: dict[str, Any], edited: Any) -> None:
    places = ("", "model.", "model.diffusion.", "model.diffusion.config.", "model.pretransform.config.encoder.config.", "training.demo.")
    assert accepts(schema, edited(small_text, {f"{place}{key}": 1 for place in places for key in ("_x", "comment")}))


@pytest.mark.parametrize(
    ("block", "registry"),
    [
        ("EncoderBlock", ENCODERS),
        ("DecoderBlock", DECODERS),
        ("BottleneckBlock", BOTTLENECKS),
        ("PretransformBlock", PRETRANSFORMS),
        ("ConditionerBlock", CONDITIONERS),
        ("DiffusionBlock", BACKBONES),
        ("DiscriminatorBlock", DISCRIMINATORS),
    ],
)
def test_every_type_is_offered_with_its_keys_and_their_meaning(schema: dict[str, Any], block: str, registry: Registry) -> None:
    definition = schema["$defs"][block]
    assert [example["type"] for example in definition["examples"]] == registry.names()
    rules = {rule["if"]["properties"]["type"]["const"]: rule["then"]["properties"]["config"] for rule in definition["allOf"]}
    assert sorted(rules) == registry.names()
    for name, rule in rules.items():
        if "$ref" not in rule:
            parameters = registry.schema(name).parameters
            assert list(rule["properties"]) == [parameter.name for parameter in parameters]
            assert {key for key, value in rule["properties"].items() if value.get("description")} == {p.name for p in parameters if p.doc}
            assert rule.get("required", []) == [p.name for p in parameters if p.is_required]


def test_every_reference_leads_somewhere() -> None:
    for schema in (model_schema(), dataset_schema()):
        for name in re.findall(r'"#/\$defs/([^"]+)"', json.dumps(schema)):
            assert name in schema["$defs"]


def test_model_and_dataset_types_are_all_there(schema: dict[str, Any]) -> None:
    choices = [schema["$defs"][choice["$ref"].removeprefix("#/$defs/")] for choice in schema["oneOf"]]
    assert [choice["properties"]["model_type"]["const"] for choice in choices] == list(MODEL_CONFIGS)
    assert [choice["properties"]["dataset_type"]["const"] for choice in dataset_schema()["oneOf"]] == DATASETS.names()
