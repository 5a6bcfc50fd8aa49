"""A user's folder of sounds with captions."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from stable_audio_tools.audio import save
from stable_audio_tools.demo import synth

WORDS = {"kick": "kick drum", "bell": "church bell", "open hat": "open hi-hat"}


@pytest.fixture(scope="session")
def write_folder() -> Callable[..., Path]:
    """``write_folder(path, per_class=8)``: kicks, bells and open hats as files of a folder, described by its captions.csv."""

    def write(folder: Path, per_class: int = 8) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        rows = []
        for name, words in WORDS.items():
            for index in range(per_class):
                sound = synth.render(name, np.random.default_rng([index, len(name)]))
                path = f"{name}/{index}.wav"
                save(folder / path, torch.from_numpy(sound)[None], synth.SAMPLE_RATE)
                rows.append((path, f"a {words}, take {index}"))
        with (folder / "captions.csv").open("w", encoding="utf-8", newline="") as stream:
            csv.writer(stream).writerows([("path", "caption"), *rows])
        return folder

    return write
