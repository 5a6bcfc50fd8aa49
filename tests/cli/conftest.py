"""The command line, run in this process (quick) or in one of its own (whole)."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from stable_audio_tools.checkpoint import save_model_weights
from stable_audio_tools.cli.main import main
from stable_audio_tools.models import create_model_from_config

COMMAND = [sys.executable, "-c", "import sys; sys.argv[0] = 'sat'; from stable_audio_tools.cli.main import main; main()"]


class Ran(NamedTuple):
    status: int
    out: str
    err: str

    @property
    def told(self) -> str:
        """The last line on stderr: what a user sees of an error."""
        assert "Traceback" not in self.err, self.err
        return self.err.strip().splitlines()[-1]


@pytest.fixture
def sat(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Ran]]:
    """``sat("check", path)``: run a command in this process."""
    library = logging.getLogger("stable_audio_tools")
    before = (library.handlers[:], library.level, library.propagate)

    def run(*arguments: Any) -> Ran:
        monkeypatch.setattr(sys, "argv", ["sat", *map(str, arguments)])
        capsys.readouterr()
        try:
            main()
            status = 0
        except SystemExit as done:
            status = int(done.code or 0)
        return Ran(status, *capsys.readouterr())

    yield run
    library.handlers[:], library.level, library.propagate = before


@pytest.fixture(scope="session")
def sat_process() -> Callable[..., Ran]:
    """``sat_process("check", path)``: run a command in a process of its own."""

    def run(*arguments: Any, **options: Any) -> Ran:
        done = subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False, **options)
        return Ran(done.returncode, done.stdout, done.stderr)

    return run


class Files(NamedTuple):
    config: Path
    weights: Path

    @property
    def flags(self) -> list[str]:
        return ["--model-config", str(self.config), "--ckpt-path", str(self.weights)]


@pytest.fixture(scope="session")
def write_model(tmp_path_factory: pytest.TempPathFactory, randomise: Any) -> Callable[..., Files]:
    """``write_model(config)``: the config and random weights for it, as files."""

    def write(config: dict[str, Any]) -> Files:
        folder = tmp_path_factory.mktemp("model")
        torch.manual_seed(0)
        model = randomise(create_model_from_config(config))
        (folder / "model_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
        return Files(folder / "model_config.json", save_model_weights(model.state_dict(), folder / "model.safetensors"))

    return write


@pytest.fixture(scope="session")
def flow(write_model: Any, tiny_diffusion: Any) -> Files:
    """A random rectified flow on the latents of an autoencoder."""
    return write_model(tiny_diffusion())


@pytest.fixture(scope="session")
def raw(write_model: Any, tiny_diffusion: Any) -> Files:
    """A random v-model of audio itself."""
    return write_model(tiny_diffusion(False, objective="v"))


@pytest.fixture(scope="session")
def nothing(write_model: Any, tiny_uncond: Any) -> Files:
    """A random model without conditions."""
    return write_model(tiny_uncond())


@pytest.fixture(scope="session")
def diffae(write_model: Any, tiny_diffae: Any) -> Files:
    """A random diffusion autoencoder."""
    return write_model(tiny_diffae())


@pytest.fixture(scope="session")
def gaps(write_model: Any, dit_config: Any) -> Files:
    """A random inpainting model; clips of 512 samples, 64 ms."""
    config = dit_config(objective="rectified_flow", input_concat_dim=9)
    config["model_type"] = "diffusion_cond_inpaint"
    config["model"]["diffusion"]["input_concat_ids"] = ["inpaint_mask", "inpaint_masked_input"]
    return write_model(config)


@pytest.fixture(scope="session")
def vae(write_model: Any, tiny_autoencoder: Any) -> Files:
    """A random autoencoder."""
    return write_model(tiny_autoencoder())


@pytest.fixture(scope="session")
def noises(tmp_path_factory: pytest.TempPathFactory, write_noises: Any) -> Path:
    """The config of a dataset of noises."""
    folder = tmp_path_factory.mktemp("data")
    write_noises(folder / "audio")
    config = {"dataset_type": "audio_dir", "datasets": [{"id": "noises", "path": str(folder / "audio"), "caption": "noise"}]}
    (folder / "dataset_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder / "dataset_config.json"
