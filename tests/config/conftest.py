"""Configs as texts, and what the check says about them."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from stable_audio_tools.config import check as check_module
from stable_audio_tools.config.check import check_source
from stable_audio_tools.config.source import Source, parse_json

DELETE = object()


class Line(NamedTuple):
    """One line of a report."""

    line: int
    column: int
    path: str
    message: str


@pytest.fixture(scope="session")
def report() -> Callable[[str], list[Line]]:
    """``report(text)``: the lines that ``sat check`` prints about a file of this text."""

    def lines(text: str) -> list[Line]:
        data, positions = parse_json(text, name="f.json")
        source = Source(data, "f.json", positions, Path())
        found: list[Line] = []
        for entry in source.report(check_source(source)):
            where, _, rest = entry.partition("  ")
            path, _, message = rest.partition(": ")
            _, line, column = where.split(":")
            found.append(Line(int(line), int(column), path, message))
        return found

    return lines


@pytest.fixture(scope="session")
def edited() -> Callable[..., dict[str, Any]]:
    """``edited(config, {"a.0.b": value})``: a copy with some values set, or deleted (`DELETE`)."""

    def edit(config: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
        result = copy.deepcopy(config)
        for path, value in changes.items():
            *parents, last = (int(key) if key.isdigit() else key for key in path.split("."))
            node: Any = result
            for key in parents:
                node = node.setdefault(key, {}) if isinstance(node, dict) else node[key]
            if value is DELETE:
                del node[last]
            else:
                node[last] = value
        return result

    return edit


@pytest.fixture(scope="session")
def delete() -> object:
    """For `edited`: take the key away."""
    return DELETE


@pytest.fixture(scope="session")
def shipped() -> Path:
    """The folder of the configs that come with the package."""
    return Path(check_module.__file__).parents[1] / "configs"


@pytest.fixture(scope="session")
def small_text(shipped: Path) -> dict[str, Any]:
    """A whole shipped config: a DiT on the latents of an autoencoder, with training and demos."""
    return json.loads((shipped / "model_configs/txt2audio/small_text_22k.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def full_vae(shipped: Path) -> dict[str, Any]:
    """A whole shipped config: an autoencoder with a discriminator."""
    return json.loads((shipped / "model_configs/autoencoders/stable_audio_2_0_vae.json").read_text(encoding="utf-8"))


@pytest.fixture
def library_log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    """What the library logs, as if nothing had been warned about before in this process."""
    library = logging.getLogger("stable_audio_tools")
    monkeypatch.setattr(library, "propagate", True)
    monkeypatch.setattr(library, "level", logging.NOTSET)
    monkeypatch.setattr(check_module, "_warned", set())
    return caplog
