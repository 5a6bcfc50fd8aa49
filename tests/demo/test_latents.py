"""Clips encoded once, as a dataset that a config can name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from stable_audio_tools.data.base import ItemKey
from stable_audio_tools.data.dataset import create_dataloader_from_config
from stable_audio_tools.demo.clips import Clip
from stable_audio_tools.demo.latents import EncodedClips, encode_clips
from stable_audio_tools.errors import DataError
from stable_audio_tools.models.pretransforms import PatchedPretransform

CLIPS = [Clip(f"{index}.wav", "x", ("one", "two", "three"), is_held_out=False) for index in range(5)]
AUDIO = torch.arange(5 * 32, dtype=torch.float32).reshape(5, 1, 32) / 160


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    latents = encode_clips(PatchedPretransform(channels=1, patch_size=4), CLIPS, AUDIO, tmp_path / "deep", batch_size=2)
    assert latents.shape == (5, 4, 8)
    return tmp_path / "deep"


def test_what_is_written_is_read(folder: Path) -> None:
    data = EncodedClips(str(folder))
    assert len(data) == 5
    for index in range(5):
        latents, metadata = data[index]
        torch.testing.assert_close(PatchedPretransform(1, 4).decode(latents[None])[0], AUDIO[index])
        assert metadata["path"] == f"{index}.wav"
        assert metadata["prompt"] in ("one", "two", "three")
        assert metadata["padding_mask"].tolist() == [1.0] * 8


def test_captions_depend_on_seed_pass_and_item(folder: Path) -> None:
    data = EncodedClips(str(folder))

    def prompts(seed: int, epoch: int) -> list[str]:
        return [data[ItemKey(index=index, epoch=epoch, seed=seed)][1]["prompt"] for index in range(5)]

    assert prompts(1, 0) == prompts(1, 0)
    assert len({tuple(prompts(seed, epoch)) for seed in range(3) for epoch in range(3)}) > 5


def test_small_sets_are_gone_through_several_times_in_a_pass(folder: Path) -> None:
    data = EncodedClips(str(folder), repeat=3)
    assert len(data) == 15
    assert torch.equal(data[7][0], data[2][0])
    assert data[7][1]["path"] == "2.wav"


def test_a_config_can_name_it(folder: Path) -> None:
    config: dict[str, Any] = {"dataset_type": "stable_audio_tools.demo.latents:EncodedClips", "folder": str(folder), "repeat": 2}
    loader = create_dataloader_from_config(config, batch_size=4, sample_size=32, sample_rate=8000, audio_channels=1, num_workers=0)
    batches = list(loader)
    assert [latents.shape for latents, _ in batches] == [(4, 4, 8)] * 2  # the last two of ten do not fill a batch
    assert {item["path"] for _, metadata in batches for item in metadata} <= {clip.path for clip in CLIPS}


@pytest.mark.parametrize("broken", ["latents.json", "latents.safetensors"])
def test_folders_without_latents(folder: Path, broken: str) -> None:
    (folder / broken).unlink()
    with pytest.raises(DataError, match=r"deep: holds no encoded clips \(.*No such file"):
        EncodedClips(str(folder))


def test_a_broken_description(folder: Path) -> None:
    (folder / "latents.json").write_text("[{", encoding="utf-8")
    with pytest.raises(DataError, match="deep: holds no encoded clips"):
        EncodedClips(str(folder))
