"""The guide to fine-tuning runs as written, on a model that is small enough and for a few steps."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from stable_audio_tools.checkpoint import save_model_weights
from stable_audio_tools.models import create_model_from_config

ROOT = Path(__file__).resolve().parents[1]
FEWER = {"--max-steps": "4", "--val-every": "2", "--checkpoint-every": "2", "--batch-size": "2"}


def blocks() -> list[tuple[str, str]]:
    """(language, text) of the page's code blocks, in order."""
    text = (ROOT / "docs" / "fine-tuning.md").read_text(encoding="utf-8")
    return re.findall(r"^```(\w+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def smaller(words: list[str], folder: Path) -> list[str]:
    """A command as written, but for few steps, without processes that load data, and with the run's real folder."""
    words = [FEWER.get(before, word) for before, word in zip(["", *words], words, strict=False)]
    if words[1] in ("train", "pre-encode"):
        words += ["--num-workers", "0"]
    for index, word in enumerate(words):
        if "<time>" in word:
            pattern, _, strength = re.sub(r"=[0-9E]+\d*", "=*", word).replace("<time>", "*").partition(":")
            found = sorted(folder.glob(pattern))
            assert found, word
            words[index] = str(found[-1]) + (f":{strength}" if strength else "")
    return words


@pytest.mark.slow
def test_the_guide_to_fine_tuning_runs_as_written(tmp_path: Path, tiny_diffusion: Any, write_noises: Any) -> None:
    config = tiny_diffusion(objective="v")
    (tmp_path / "sao").mkdir()
    (tmp_path / "sao" / "model_config.json").write_text(json.dumps(config), encoding="utf-8")
    save_model_weights(create_model_from_config(config).state_dict(), tmp_path / "sao" / "model.safetensors")
    sounds = write_noises(tmp_path / "my_sounds", 30)
    rows = "".join(f"{path.name},a noise\n" for path in sorted(sounds.glob("*.wav")))
    (sounds / "captions.csv").write_text("path,caption\n" + rows, encoding="utf-8")
    (audio, validation, latents, training) = (text for language, text in blocks() if language == "json")
    (tmp_path / "my_audio.json").write_text(audio, encoding="utf-8")
    (tmp_path / "my_validation.json").write_text(validation, encoding="utf-8")
    (tmp_path / "my_latents.json").write_text(latents.replace("1024", "64"), encoding="utf-8")
    unseen = json.loads(latents) | {"drop_last": False, "latent_crop_length": 64}
    unseen["datasets"][0]["path"] = "latents/val"
    (tmp_path / "my_val_latents.json").write_text(json.dumps(unseen), encoding="utf-8")

    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    ran: list[str] = []
    for text in (text for language, text in blocks() if language == "bash"):
        for line in text.splitlines():
            words = shlex.split(line)
            if words[0] == "cp":
                config["training"] = json.loads("{" + training + "}")["training"]
                config["training"]["demo"] |= {"demo_steps": 2, "num_demos": 1, "demo_cond": config["training"]["demo"]["demo_cond"][:1]}
                (tmp_path / "my_model.json").write_text(json.dumps(config), encoding="utf-8")
            if words[0] != "sat" or words[1] == "ui":  # downloads, copies, and what goes on until it is closed
                continue
            command = [sys.executable, "-m", "stable_audio_tools.cli.main", *smaller(words, tmp_path)[1:]]
            run = subprocess.run(command, cwd=tmp_path, env=environment, text=True, capture_output=True)
            is_verdict = "--overfit" in words and run.returncode in (0, 3)  # four steps do not suffice to learn
            assert run.returncode == 0 or is_verdict, f"{shlex.join(command)}\n{run.stdout}{run.stderr}"
            ran.append(words[1])
    assert ran == ["data", "data", "data", "check", "pre-encode", "pre-encode", *["train"] * 3, "unwrap", "generate", "generate", "lora"]
    assert list(tmp_path.glob("outputs/generated/*.wav"))
