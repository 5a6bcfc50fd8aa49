"""Small autoencoders on disk, files of several lengths, and a short way to encode them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import soundfile
import torch

from stable_audio_tools.checkpoint import save_model_weights
from stable_audio_tools.models import create_model_from_config
from stable_audio_tools.preencode.run import PreEncodeOptions, pre_encode

SECONDS = (0.05, 0.12, 0.4, 0.13, 1.0, 0.3, 0.05, 0.7, 0.25, 0.5)  # of 8 kHz; a crop is 0.512 s, 256 frames of 16 samples


class Model(NamedTuple):
    config: dict[str, Any]
    weights: Path
    config_path: Path

    @property
    def options(self) -> dict[str, Any]:
        return {"model_config": self.config_path, "ckpt_path": self.weights}


@pytest.fixture(scope="session")
def write_model(tmp_path_factory, randomise):
    def write(config: dict[str, Any]) -> Model:
        folder = tmp_path_factory.mktemp("model")
        torch.manual_seed(0)
        model = randomise(create_model_from_config(config))
        (folder / "model_config.json").write_text(json.dumps(config))
        return Model(config, save_model_weights(model.state_dict(), folder / "model.safetensors"), folder / "model_config.json")

    return write


@pytest.fixture(scope="session")
def vae(write_model, tiny_autoencoder):
    """A VAE of 16 samples per frame and 4 channels."""
    return write_model(tiny_autoencoder())


@pytest.fixture(scope="session")
def sounds(tmp_path_factory):
    """Noises of several lengths, with captions."""
    folder = tmp_path_factory.mktemp("sounds")
    rng = np.random.default_rng(0)
    for index, seconds in enumerate(SECONDS):
        soundfile.write(folder / f"{index:02}.wav", (0.2 * rng.standard_normal((int(8000 * seconds), 1))).clip(-1, 1), 8000, "FLOAT")
        (folder / f"{index:02}.txt").write_text(f"noise {index % 3}")
    return folder


@pytest.fixture(scope="session")
def data(sounds):
    return {"dataset_type": "audio_dir", "datasets": [{"id": "a", "path": str(sounds)}], "random_crop": False}


@pytest.fixture
def encode(vae, data, tmp_path):
    """``encode(folder="out", **options)``: a run in this process."""

    def run(folder: str | Path = "out", place=None, on_progress=None, **options: Any):
        settings = {"dataset_config": data, "sample_size": 4096, "batch_size": 2, "num_workers": 0, "shard_size": 4, "device": "cpu"}
        settings |= {} if "pretrained_name" in options or "model_config" in options else vae.options
        return pre_encode(PreEncodeOptions(output_path=tmp_path / folder, **{**settings, **options}), place, on_progress)

    return run


def contents(folder: Path) -> dict[str, bytes]:
    """All files but the journals, whose lines may come in another order, and what names the run's time."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in ("journal.jsonl", "details.json"))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
