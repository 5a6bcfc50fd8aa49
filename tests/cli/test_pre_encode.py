"""sat pre-encode: flags, what it prints, and how it fails."""

from __future__ import annotations

import json
import shutil
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


def test_texts_are_cached_and_tokens_are_stored(
    sat: Any, write_model: Any, tiny_diffusion: Any, tiny_lm: Any, shared: Path, tmp_path: Path
) -> None:
    """Of real sounds, with their captions."""
    folder = tmp_path / "sounds"
    folder.mkdir()
    for path in sorted((shared / "data" / "real-oneshots" / "dirt-bass1").iterdir()):
        shutil.copy(path, folder)
    entry = {"id": "a", "path": str(folder), "caption": "a bass"}
    (tmp_path / "d.json").write_text(json.dumps({"dataset_type": "audio_dir", "datasets": [entry]}))
    flags = ("--dataset-config", tmp_path / "d.json", "--sample-size", 8000, "--num-workers", 0, "--batch-size", 3)
    ran = sat("pre-encode", *write_model(tiny_diffusion()).flags, *flags, "--output-path", tmp_path / "a", "--cache-conditions", "prompt")
    assert ran.out.startswith("8 of 8 items") and len(list((tmp_path / "a" / "conditions" / "prompt").glob("*/*.safetensors"))) == 1
    assert sat("pre-encode", *write_model(tiny_lm()).flags, *flags, "--output-path", tmp_path / "b", "--is-discrete").status == 0
    tokens = np.load(tmp_path / "b" / "0" / "0000000000000.npy")
    assert tokens.dtype == np.int32 and tokens.shape[0] == 2 and 0 <= tokens.min() < tokens.max() < 8


def test_a_wrong_dataset_is_told_before_a_model_is_loaded(sat: Any, flags: list[str], tmp_path: Path) -> None:
    (tmp_path / "d.json").write_text('{"dataset_type": "audio_dir", "datasets": [{"id": "a", "path": "nowhere"}]}')
    ran = sat("pre-encode", *flags, "--dataset-config", tmp_path / "d.json")
    assert ran.told == f"error: {tmp_path}/d.json:1:56  datasets[0].path: nowhere: no such folder" and "tensors loaded" not in ran.err


def test_a_pretrained_folder(sat: Any, vae: Any, noises: Path, tmp_path: Path) -> None:
    ran = sat("pre-encode", "--pretrained-name", vae.config.parent, "--dataset-config", noises, "--output-path", tmp_path / "out",
              "--sample-size", 1024, "--num-workers", 0)  # fmt: skip
    assert ran.out.startswith("10 of 10 items")


def test_without_a_number_of_workers_torch_does_not_warn_of_too_many(sat: Any, flags: list[str]) -> None:
    """Warnings are errors here: on a machine with fewer cores than workers, torch has one."""
    at = flags.index("--num-workers")
    assert sat("pre-encode", *flags[:at], *flags[at + 2 :], "--limit-batches", "1").out.startswith("4 of 4 items")


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
