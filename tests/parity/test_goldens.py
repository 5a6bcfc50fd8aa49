"""Recorded reference outputs, compared by the program that came with them.

A case is skipped while a part that it names does not exist, for the reason that the registry gives; so it switches itself on.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from safetensors import safe_open

from stable_audio_tools.config.check import check_model_config
from stable_audio_tools.errors import ConfigError
from stable_audio_tools.families import SAMPLERS

PROMISED = (  # these have no excuse
    "ae-oobleck-vae", "ae-oobleck-elu-tanh-mono", "ae-oobleck-nearest", "ae-oobleck-chunked", "dit-sao", "dit-int-conditioner",
    "generate-audio-batch-negative", "generate-init-audio", "generate-rf-shift",
)  # fmt: skip


def folder() -> Path | None:
    """Where the goldens are; the cases have to be known when tests are collected, so this is no fixture."""
    named = os.environ.get("SAT_SHARED")
    candidates = [Path(named)] if named else [parent / "shared" for parent in Path(__file__).resolve().parents]
    return next((place / "goldens" for place in candidates if (place / "goldens" / "goldens.py").is_file()), None)


def load(name: str) -> ModuleType:
    """A module of the goldens. It imports its neighbours by their bare names."""
    assert GOLDENS is not None
    sys.path.insert(0, str(GOLDENS))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(GOLDENS))


GOLDENS = folder()
CASES: dict[str, Any] = {case["name"]: case for case in load("cases").CASES if (GOLDENS / case["name"]).is_dir()} if GOLDENS else {}
pytestmark = pytest.mark.skipif(GOLDENS is None, reason="no shared/goldens: set SAT_SHARED, or put shared/ beside the checkout")


def missing_part(case: Any) -> str | None:
    """What the registries say about the first part that does not exist yet; None if there are all."""
    for mistake in check_model_config(load("goldens").resolve(case["config"])):
        if mistake.kind == "unknown_type":
            return f"{mistake.path}: {mistake.message}"
    for _, options in case["ops"]:
        try:
            SAMPLERS.part(options.get("sampler_type") or "euler")
        except ConfigError as error:
            return str(error)
    return None


@pytest.mark.parametrize("name", CASES)
def test_agrees_with_the_reference(name: str) -> None:
    """All keys and shapes of the state dict, and all outputs within the tolerance of the goldens."""
    assert GOLDENS is not None
    missing = missing_part(CASES[name])
    if missing is not None:
        pytest.skip(missing)
    sys.path.insert(0, str(GOLDENS))  # goldens.py imports cases.py when it runs one
    try:
        result = load("goldens").check(CASES[name], GOLDENS / name)
    finally:
        sys.path.remove(str(GOLDENS))
    assert isinstance(result, float), result


@pytest.mark.parametrize("name", PROMISED)
def test_promised_cases_are_not_skipped(name: str) -> None:
    assert missing_part(CASES[name]) is None


@pytest.mark.parametrize("name", CASES)
def test_the_reference_is_not_silence(name: str) -> None:
    """Nothing is proved by agreeing on zeros."""
    assert GOLDENS is not None
    with safe_open(GOLDENS / name / "outputs.safetensors", framework="pt") as stored:
        outputs = [stored.get_tensor(key) for key in stored.keys()]  # noqa: SIM118
    assert any(output.unique().numel() > 1 for output in outputs)
