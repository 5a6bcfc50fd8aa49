"""JSON Schema of whole configs: the trunk's, with every component's ``config`` chosen by its ``type``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from pydantic.json_schema import models_json_schema

from stable_audio_tools.config.base import Component
from stable_audio_tools.config.model import MODEL_CONFIGS, TRUNK_CONFIGS
from stable_audio_tools.families import DATASETS
from stable_audio_tools.registry import Registry
from stable_audio_tools.registry.signature import COMPUTED

Json = dict[str, Any]
DIALECT = "https://json-schema.org/draft/2020-12/schema"


def model_schema() -> Json:
    """JSON Schema of a model config."""
    models: list[Any] = [*MODEL_CONFIGS.values(), *TRUNK_CONFIGS.values()]
    _, top = models_json_schema([(model, "validation") for model in models], ref_template="#/$defs/{model}")
    definitions = cast("Json", top["$defs"])
    for component in _subclasses(Component):
        if component.__name__ in definitions:
            definitions[component.__name__] |= _by_type(component.registry(), definitions)
    for definition in definitions.values():
        _allow_comments(definition)
    choices = [{"$ref": f"#/$defs/{model.__name__}"} for model in MODEL_CONFIGS.values()]
    return {"$schema": DIALECT, "title": "model config", "oneOf": choices, "$defs": definitions}


def dataset_schema() -> Json:
    """JSON Schema of a dataset config."""
    choices: list[Json] = []
    definitions: Json = {}
    for part in sorted(DATASETS, key=lambda part: part.name):
        schema = _part_schema(DATASETS, part.name, definitions)
        schema["properties"] = {"dataset_type": {"const": part.name}, **schema.get("properties", {})}
        schema["required"] = ["dataset_type", *schema.get("required", [])]
        choices.append(schema)
    for definition in definitions.values():
        _allow_comments(definition)
    return {"$schema": DIALECT, "title": "dataset config", "oneOf": choices, "$defs": definitions}


def _by_type(registry: Registry, definitions: Json) -> Json:
    """Conditions ``if type is X then config is like this``, and the list of known types for completion."""
    rules: list[Json] = []
    for part in sorted(registry, key=lambda part: part.name):
        trunk = part.facts.get("trunk")
        config = {"$ref": f"#/$defs/{trunk}"} if trunk else _part_schema(registry, part.name, definitions)
        rules.append({"if": {"properties": {"type": {"const": part.name}}}, "then": {"properties": {"config": config}}})
    return {"allOf": rules, "examples": [{"type": name} for name in registry.names()]}


def _part_schema(registry: Registry, name: str, definitions: Json) -> Json:
    schema = registry.schema(name)
    result = schema.model.model_json_schema(ref_template="#/$defs/{model}")
    for key, definition in result.pop("$defs", {}).items():
        definitions.setdefault(key, definition)  # what is there may know more: its parts by type
    result["description"] = registry.part(name).summary
    for parameter in schema.parameters:
        described = result["properties"][parameter.name]
        if parameter.doc:
            described["description"] = parameter.doc
        if parameter.default is COMPUTED:
            described.pop("default", None)
    _allow_comments(result)
    return result


def _allow_comments(definition: Json) -> None:
    if definition.get("type") == "object":
        definition["patternProperties"] = {"^(_.*|comment)$": {}}


def _subclasses(cls: type[Component]) -> Iterator[type[Component]]:
    for child in cls.__subclasses__():
        yield child
        yield from _subclasses(child)


__all__ = ["dataset_schema", "model_schema"]
