"""sat pre-encode: flags, what it prints, and how it fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest


@pytest.fixture
def flags(vae: Any, noises: Path, tmp_path: Path) -> list[str]:
    """What scripts give, for ten noises of half a second."""
    out = ["--output-path", str(tmp_path / "out"), "--batch-size", "4", "--sample-size", "4096", "--num-workers", "0"]
    return [*vae.flags, "--dataset-config", str(noises), *out, "--num-nodes", "1", "--strategy", "auto"]


def test_a_store_and_what_is_said(sat: Any, flags: list[str], tmp_path: Path) -> None:
    ran = sat("pre-encode", *flags)
    assert (ran.status, ran.out) == (0, f"10 of 10 items are in {tmp_path / 'out'}, 10 of them new\n")
    assert "10/10 items, " in ran.err and " x real time, 0:00:00 left" in ran.err
    assert np.load(tmp_path / "out" / "0" / "0000000000003.npy").shape == (4, 256)
    again = sat("pre-encode", *flags)
    assert again.out.endswith("0 of them new\n")


def test_every_flag_reaches_the_run(sat: Any, flags: list[str], tmp_path: Path) -> None:
    more = ["--store", "mean-scale", "--dtype", "bf16", "--format", "safetensors", "--no-pad", "--shuffle", "--seed", "7",
            "--limit-batches", "1", "--shard-size", "3", "--model-half", "--full-length", "--device", "cpu", "--devices", "1"]  # fmt: skip
    assert sat("pre-encode", *flags, *more).out.startswith("4 of 4 items are in ")
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    expected = {
        "store": "mean-scale", "dtype": "bf16, encoded in fp16", "format": "safetensors", "pad": False, "shuffle": True, "seed": 7,
        "shard_size": 3, "full_length": True, "latent_channels": 8,
    }  # fmt: skip
    assert {key: card[key] for key in expected} == expected


def test_a_pretrained_folder(sat: Any, vae: Any, noises: Path, tmp_path: Path) -> None:
    ran = sat("pre-encode", "--pretrained-name", vae.config.parent, "--dataset-config", noises, "--output-path", tmp_path / "out",
              "--sample-size", 1024, "--num-workers", 0)  # fmt: skip
    assert ran.out.startswith("10 of 10 items")


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--store", "all"], "'all' is not one of 'sample', 'mean', 'mean-scale'."),
        (["--dtype", "bf16"], "error: --dtype bf16: NPY files, and --format npy, cannot hold it; add --format safetensors, or use fp16"),
        (["--devices", "none"], "error: --devices 'none': how many devices, or auto"),
        (["--num-nodes", "2"], "error: --num-nodes 2: start it with srun or torchrun, or set NODE_RANK on each machine"),
    ],
)
def test_mistakes(sat: Any, flags: list[str], more: list[str], told: str) -> None:
    ran = sat("pre-encode", *flags, *more)
    assert ran.status != 0 and told in " ".join(ran.err.replace("\u2502", " ").split())


def test_more_devices_than_torchrun_started(sat: Any, flags: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    assert sat("pre-encode", *flags, "--devices", 2).told == ("error: --devices 2: torchrun or Slurm has started 1 process; leave it out")


def test_mistakes_in_the_model_config_are_told_first(sat: Any, flags: list[str], vae: Any, tmp_path: Path) -> None:
    config = json.loads(vae.config.read_text())
    config["model"]["latent_dim"] = "4"
    (tmp_path / "m.json").write_text(json.dumps(config))
    assert "model.latent_dim: input should be a valid integer" in sat("pre-encode", *flags, "--model-config", tmp_path / "m.json").told
