"""Configs that come with the package, and those of the corpus: they are accepted, and they build."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import stable_audio_tools
from stable_audio_tools import create_model_from_config_path
from stable_audio_tools.config.check import check_source, parse_model_config
from stable_audio_tools.config.model import MODEL_CONFIGS
from stable_audio_tools.config.source import read_source
from stable_audio_tools.data.metadata import MetadataModule

CONFIGS = Path(stable_audio_tools.__file__).parent / "configs"
MODELS = sorted((CONFIGS / "model_configs").rglob("*.json"))
DATASETS = sorted((CONFIGS / "dataset_configs").rglob("*.json"))
OPEN_1_0 = "Stability-AI__stable-audio-tools__stable_open_model_files-model_config.json"


def told(path: Path) -> list[str]:
    source = read_source(path)
    return source.report(check_source(source))


@pytest.mark.parametrize("path", [*MODELS, *DATASETS], ids=lambda path: path.stem)
def test_shipped_configs_are_accepted_and_say_what_they_are(path: Path) -> None:
    assert told(path) == []
    assert len(json.loads(path.read_text(encoding="utf-8"))["comment"]) > 20


def test_there_is_an_example_of_every_model_type() -> None:
    shown = {json.loads(path.read_text(encoding="utf-8"))["model_type"] for path in MODELS}
    assert shown == set(MODEL_CONFIGS)


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_shipped_models_build(path: Path) -> None:
    """Without memory for their weights, since some have a billion."""
    config: Any = parse_model_config(path, strict=True)
    assert config.training is not None
    if config.model_type == "musicgen":  # its weights are downloaded; tests/models/lm/test_musicgen.py loads small ones
        pytest.skip(f"needs the download {config.model.pretrained!r}")
    with torch.device("meta"):
        model = create_model_from_config_path(path)
    assert next(model.parameters()).device.type == "meta"
    assert model.sample_rate == config.sample_rate
    if config.model_type == "lm":
        assert model.io_channels == config.audio_channels
        assert model.min_input_length == config.input_multiple()
        return
    assert model.io_channels == config.model.io_channels
    if config.model_type == "autoencoder":
        assert model.downsampling_ratio == config.model.downsampling_ratio
        return
    # what the check predicts is what is built
    steps = {"diffusion_autoencoder": "min_length"}
    assert getattr(model, steps.get(config.model_type, "min_input_length")) == config.model.input_multiple()
    if config.model.pretransform is not None:
        assert model.pretransform.encoded_channels == config.model.pretransform.width()  # pyright: ignore[reportAttributeAccessIssue]


def test_the_shipped_metadata_module_works(tmp_path: Path) -> None:
    (module,) = (CONFIGS / "custom_metadata").glob("*.py")
    made = MetadataModule(module)({"relpath": "drums/kick 01.wav"}, torch.zeros(1, 8))
    assert made == {"prompt": "drums kick 01"}


# ---- published ones ------------------------------------------------------------------------------------------------------------


def test_open_1_0_is_accepted_in_a_moment(shared: Path) -> None:
    start = time.perf_counter()
    assert told(shared / "corpus" / "model_configs" / OPEN_1_0) == []
    assert time.perf_counter() - start < 4  # what users are promised for the whole command; see tests/cli for that


@pytest.mark.parametrize(
    "name",
    [
        OPEN_1_0,
        "Stability-AI__stable-audio-tools__sao_small-base_model_config.json",
        "Stability-AI__stable-audio-tools__vae_model_config.json",
        "Stability-AI__stable-audio-tools__stable_audio_tools-configs-model_configs-autoencoders-stable_audio_2_0_vae.json",
    ],
)
def test_published_models_of_known_parts_build(shared: Path, name: str) -> None:
    path = shared / "corpus" / "model_configs" / name
    assert [line for line in told(path) if "warning" not in line] == []
    with torch.device("meta"):
        create_model_from_config_path(path)


def test_the_check_of_the_corpus_never_crashes(shared: Path) -> None:
    """Forks with parts of their own, old schemas, and files that must fail: each gets lines in order, none twice."""
    for path in sorted((shared / "corpus").glob("*_configs/*.json")):
        lines = [line.removeprefix(f"{path}:") for line in told(path)]
        places = [tuple(int(number) for number in line.split("  ")[0].split(":")) for line in lines]
        assert places == sorted(places), path.name
        assert len(set(lines)) == len(lines), path.name
