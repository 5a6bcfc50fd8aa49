"""Check a whole config: trunk, parts, and what must agree between them. All mistakes at once; nothing is imported or built."""

from __future__ import annotations

import logging
import typing
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ValidationError

from stable_audio_tools.config.base import Component, ListFile, Strict, part_mistakes
from stable_audio_tools.config.dataset import AudioFolder, LatentFolder, ShardEntry, absent_file
from stable_audio_tools.config.model import MODEL_CONFIGS, TRUNK_CONFIGS, ModelConfig, PretransformBlock
from stable_audio_tools.config.source import Source, read_source
from stable_audio_tools.errors import ConfigError
from stable_audio_tools.families import DATASETS
from stable_audio_tools.registry import Mistake, unknown_name
from stable_audio_tools.registry.schema import Location, keys_of, mistakes_of, model_at, path_text, without_comments

logger = logging.getLogger(__name__)
_OF_THE_MODEL: dict[Any, str] = {  # what people write into dataset configs
    "sample_rate": "sample_rate", "sample_size": "sample_size", "audio_channels": "audio_channels", "channels": "audio_channels",
    "force_channels": "audio_channels",
}  # fmt: skip
_warned: set[tuple[str, str]] = set()
Block = TypeVar("Block", bound=Strict)


def check_model_config(data: Any) -> list[Mistake]:
    """Every mistake (and warning) in a model config, given as plain data."""
    if not isinstance(data, Mapping):
        return [Mistake((), f"a model config is an object, got {data!r:.60}")]
    data = cast("Mapping[str, Any]", data)
    model_type = data.get("model_type")
    if model_type is None:
        return [Mistake((), f"model_type: required key is missing; one of {', '.join(MODEL_CONFIGS)}", "missing")]
    if not isinstance(model_type, str):
        return [Mistake(("model_type",), f"input should be a valid string, got {model_type!r:.60}")]
    if model_type not in MODEL_CONFIGS:
        return [Mistake(("model_type",), unknown_name("model_type", model_type, list(MODEL_CONFIGS)), "unknown_type")]
    return _check_trunk(MODEL_CONFIGS[model_type], without_comments(data), ())


def check_dataset_config(data: Any) -> list[Mistake]:
    """Every mistake in a dataset config, given as plain data."""
    if not isinstance(data, Mapping):
        return [Mistake((), f"a dataset config is an object, got {data!r:.60}")]
    data = cast("Mapping[str, Any]", data)
    kind = data.get("dataset_type")
    if kind is None:
        return [Mistake((), f"dataset_type: required key is missing; one of {', '.join(DATASETS.names())}", "missing")]
    if isinstance(kind, str) and kind not in DATASETS:
        return [Mistake(("dataset_type",), unknown_name("dataset_type", kind, DATASETS.names()), "unknown_type")]
    config = {key: value for key, value in data.items() if key != "dataset_type"}
    return [_placed(mistake, kind) for mistake in part_mistakes(DATASETS, kind, ("dataset_type",), config, ())]


def _placed(mistake: Mistake, kind: Any) -> Mistake:
    """The mistake; of a key that is unknown where it stands, but known elsewhere, with the place where it belongs."""
    if mistake.kind != "unknown_key":
        return mistake
    *inside, key = mistake.location
    parameters = DATASETS.schema(kind).parameters
    entry = next((found for parameter in parameters if (found := _entry_of(parameter.annotation)) is not None), None)
    where = ""
    if not inside and entry is not None and key in entry.model_fields:
        where = 'in each entry of "datasets"'
    elif inside and key in {parameter.name for parameter in parameters}:
        where = 'beside "datasets"'
    elif key in _OF_THE_MODEL:
        where = f'in the model config, as "{_OF_THE_MODEL[key]}"'
    return mistake._replace(message=f"unknown key here; it belongs {where}") if where else mistake


def _entry_of(annotation: Any) -> type[AudioFolder | LatentFolder | ShardEntry] | None:
    """What the entries of ``datasets`` are."""
    return next((kind for kind in (AudioFolder, LatentFolder, ShardEntry) if kind in typing.get_args(annotation)), None)


def check_files(source: Source) -> list[Mistake]:
    """Folders and files that a dataset config names and that do not exist here. None of anything else, or of a config with mistakes."""
    data = without_comments(source.data)
    if not isinstance(data, dict) or "dataset_type" not in data or any(m.kind != "warning" for m in check_source(source)):
        return []
    config = cast("dict[str, Any]", data)
    found: list[Mistake] = []
    for parameter in DATASETS.schema(config["dataset_type"]).parameters:
        entry = _entry_of(parameter.annotation)
        if entry is not None:
            for index, folder in enumerate(config.get(parameter.name) or []):
                absent = entry.model_validate(folder).absent(source.folder)
                found += [mistake.under(parameter.name, index) for mistake in absent]
        if ListFile in typing.get_args(parameter.annotation):
            found += absent_file(parameter.name, config.get(parameter.name), source.folder)
    return found


def refuse_dataset_mistakes(source: Source, *, with_files: bool = False) -> None:
    """Refuse a dataset config that has mistakes.

    Args:
        source: The config.
        with_files: Refuse it, too, if folders or files that it names do not exist here.

    Raises:
        ConfigError: With every mistake, at its place in the file.
    """
    mistakes = [mistake for mistake in check_dataset_config(source.data) if mistake.kind != "warning"]
    mistakes = mistakes or (check_files(source) if with_files else [])
    if mistakes:
        raise ConfigError("\n".join(source.report(mistakes)))


def check_source(source: Source) -> list[Mistake]:
    """Check a config of either kind, told apart by its ``model_type`` or ``dataset_type``."""
    data = source.data
    if isinstance(data, Mapping) and "dataset_type" in data and "model_type" not in data:
        return check_dataset_config(data)
    if isinstance(data, Mapping) and "model_type" not in data:
        return [Mistake((), "needs model_type (a model config) or dataset_type (a dataset config)", "missing")]
    return check_model_config(data)


def parse_model_config(config: str | Path | Mapping[str, Any] | Source, *, strict: bool = False) -> ModelConfig:
    """Read a model config into its typed, frozen form. The argument is read, never written.

    Args:
        config: Path of a JSON file, or the config itself.
        strict: Refuse unknown trunk keys and check ``training`` too, as training does. Otherwise an unknown trunk key is warned about
            once and dropped, since published configs have some, and ``training`` is left out.

    Raises:
        ConfigError: With every mistake, one per line.
    """
    source = read_source(config, name="model config")
    data: Any = without_comments(source.data)
    if not strict and isinstance(data, dict):
        cast("dict[str, Any]", data).pop("training", None)
    _settle(source, data, check_model_config(data), strict=strict)
    return MODEL_CONFIGS[data["model_type"]].model_validate(data)


def parse_block(block: type[Block], config: Mapping[str, Any], *, name: str) -> Block:
    """One trunk object by itself, such as a ``pretransform`` block, in its typed form. Unknown trunk keys are warned about and dropped.

    Args:
        block: Its type.
        config: Plain data; read, never written.
        name: What to call it in messages.

    Raises:
        ConfigError: With every mistake, one per line.
    """
    data: Any = without_comments(config)
    _settle(Source(data, name), data, _check_trunk(block, data, ()), strict=False)
    return block.model_validate(data)


def _settle(source: Source, data: Any, mistakes: list[Mistake], *, strict: bool) -> None:
    """Raise errors, log warnings, and take unknown trunk keys out of ``data`` unless ``strict`` makes them errors."""
    dropped = [m for m in mistakes if m.kind == "unknown_key" and not strict and _is_trunk(data, m.location)]
    for mistake, line in [(m, source.report([m])[0]) for m in mistakes if m in dropped or m.kind == "warning"]:
        if (line, mistake.message) not in _warned:
            _warned.add((line, mistake.message))
            logger.warning("%s%s", line, " (ignored)" if mistake in dropped else "")
    errors = [m for m in mistakes if m.kind != "warning" and m not in dropped]
    if errors:
        raise ConfigError("\n".join(source.report(errors)))
    for mistake in dropped:
        _remove(data, mistake.location)


def _is_trunk(data: Any, location: Location) -> bool:
    """Whether an unknown key stands in a trunk object, rather than in the config of a part."""
    for end in range(1, len(location)):
        parent: Any = data
        for item in location[: end - 1]:
            parent = parent[item]
        if location[end - 1] in ("config", "distribution_shift_options") and "type" in parent and parent["type"] != "autoencoder":
            return False
    return True


def _remove(data: Any, location: Location) -> None:
    for item in location[:-1]:
        data = data[item]
    del data[location[-1]]


def _check_trunk(model: type[Strict], data: Any, location: Location) -> list[Mistake]:
    """Mistakes of one trunk object and of everything below it."""
    found: list[Mistake] = []
    try:
        model.model_validate(data)
    except ValidationError as error:
        found = [_explained(m, model).under(*location) for m in mistakes_of(error, data, known=partial(keys_of, model))]
    return found + _check_nested(model, data, location)


def _explained(mistake: Mistake, model: type[Strict]) -> Mistake:
    """A mistake in a trunk object, with the reason if it is a key that other programs know."""
    owner = model_at(model, mistake.location[:-1]) if mistake.kind == "unknown_key" else None
    reason = owner.refused.get(str(mistake.location[-1])) if owner is not None and issubclass(owner, Strict) else None
    return mistake if reason is None else mistake._replace(message=f"not supported: {reason}")


def _check_nested(model: type[Strict], data: Any, location: Location) -> list[Mistake]:
    """Mistakes that validating the trunk does not see: those of its parts, and conflicts between values."""
    if not isinstance(data, Mapping):
        return []
    found: list[Mistake] = []
    if issubclass(model, Component):
        found += _check_component(model, data, location)
    parsed = _parsed(model, data)
    if parsed is not None:
        found += [mistake.under(*location) for mistake in parsed.conflicts()]
        found += [Mistake((*location, key), f"not supported: {parsed.refused[key]}") for key in _refused_values(parsed)]
    for child, value, child_location in _children(model, data, location):
        found += _check_nested(child, value, child_location)
    return found


def _refused_values(parsed: Strict) -> Iterator[str]:
    """Keys that are taken only with the value that changes nothing, and have another one."""
    for key in parsed.refused:
        field = type(parsed).model_fields.get(key)
        if field is not None and getattr(parsed, key) != field.default:
            yield key


def _check_component(block: type[Component], data: Any, location: Location) -> list[Mistake]:
    name, config = data.get("type"), data.get("config", {})
    if not isinstance(name, str) or not isinstance(config, Mapping):
        return []  # reported by the parent
    registry = block.registry()
    try:
        trunk = TRUNK_CONFIGS.get(registry.part(name).facts.get("trunk", ""))
        if trunk is not None:
            return _check_trunk(trunk, config, (*location, "config"))
        found = registry.check(name, cast("Mapping[str, Any]", config))
        nested = [
            mistake
            for parameter in registry.schema(name).parameters
            if parameter.name in config
            for trunk_type in _trunk_types(parameter.annotation)
            for mistake in _check_nested(trunk_type, config[parameter.name], (*location, "config", parameter.name))
        ]
    except ConfigError as error:
        reason = block.absent.get(name)
        return [Mistake((*location, "type"), str(error) if reason is None else f"not supported: {name!r}: {reason}", "unknown_type")]
    return [mistake.under(*location, "config") for mistake in found] + nested


def _parsed(model: type[Strict], data: Any) -> Strict | None:
    """A trunk object without its unknown keys; None if anything else is wrong with it, which validating the whole has reported."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        found = mistakes_of(error, data, known=partial(keys_of, model))
        if any(mistake.kind != "unknown_key" for mistake in found):
            return None
        data = without_comments(data)  # a copy
        for mistake in found:
            _remove(data, mistake.location)
        return model.model_validate(data)


def _children(model: type[BaseModel], data: Any, location: Location) -> Iterator[tuple[type[Strict], Any, Location]]:
    """Trunk objects directly below ``data``: (type, data, location)."""
    if not isinstance(data, Mapping):
        return
    for name, field in model.model_fields.items():
        value = cast("Mapping[str, Any]", data).get(name)
        for candidate in _trunk_types(field.annotation):
            if isinstance(value, Mapping):
                yield candidate, value, (*location, name)
            elif isinstance(value, list):
                for index, item in enumerate(cast("list[Any]", value)):
                    if isinstance(item, Mapping):
                        yield candidate, item, (*location, name, index)


def _trunk_types(annotation: Any) -> Iterator[type[Strict]]:
    if isinstance(annotation, type) and issubclass(annotation, Strict):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from _trunk_types(argument)


__all__ = [
    "PretransformBlock",
    "check_dataset_config",
    "check_files",
    "check_model_config",
    "check_source",
    "parse_block",
    "parse_model_config",
    "path_text",
    "refuse_dataset_mistakes",
]
