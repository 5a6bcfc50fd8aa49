"""Every part of every file is an item."""

import numpy as np
import pytest
import soundfile
import torch

from stable_audio_tools.data.base import ItemKey
from stable_audio_tools.data.dataset import create_dataset_from_config
from stable_audio_tools.errors import DataError


@pytest.fixture
def folder(tmp_path):
    """Files of 3.3, 0.4 and 1 crops of 1 s at 8 kHz."""
    rng = np.random.default_rng(0)
    for name, seconds in (("a", 3.3), ("b", 0.4), ("c", 1.0)):
        soundfile.write(tmp_path / f"{name}.wav", 0.3 * rng.uniform(-1, 1, int(8000 * seconds)), 8000, "FLOAT")
    return tmp_path


def dataset(folder, **options):
    config = {"dataset_type": "audio_crops", "datasets": [{"id": "a", "path": str(folder)}], "min_crop_sec": 0.1, **options}
    return create_dataset_from_config(config, 8000, 8000, 1)


def test_crops_follow_each_other_and_make_up_the_file(folder):
    data = dataset(folder)
    items = [data[ItemKey(index, 0, 0)] for index in range(len(data))]
    assert [item[1]["relpath"] for item in items] == ["a.wav"] * 4 + ["b.wav", "c.wav"]
    assert [item[1]["seconds_start"] for item in items] == [0, 1, 2, 3, 0, 0]
    assert [int(item[1]["padding_mask"].sum()) for item in items] == [8000, 8000, 8000, 2400, 3200, 8000]
    assert {item[1]["seconds_total"] for item in items[:4]} == {4}
    whole = torch.cat([audio for audio, _ in items[:4]], dim=-1)[0, :26400]
    np.testing.assert_allclose(whole, soundfile.read(folder / "a.wav")[0], atol=1e-6)


def test_short_files_are_kept_in_memory_for_their_other_crops(folder):
    plain, kept = dataset(folder), dataset(folder, cache_mb=1)
    keys = [ItemKey(index, epoch, 0) for epoch in range(2) for index in range(6)]
    expected = [plain[key] for key in keys]
    items = [kept[key] for key in keys[:4]]
    (folder / "a.wav").unlink()  # nobody opens it any more
    items += [kept[key] for key in keys[4:]]
    for (audio, metadata), (same, described) in zip(items, expected, strict=True):
        assert torch.equal(audio, same) and metadata["timestamps"] == described["timestamps"]
    assert len(kept.decoded) == 3 and len(plain.decoded) == 0


def test_overlap_and_short_ends(folder):
    assert len(dataset(folder, min_crop_sec=0.5)) == 5
    data = dataset(folder, overlap_sec=0.5)
    starts = [data[index][1]["timestamps"][0] * 3.3 for index in range(6)]
    assert starts == pytest.approx([0, 0.5, 1, 1.5, 2, 2.5], abs=1e-3)
    assert len(data) == 8, "what is left after 3.3 s is in the crop before"
    with pytest.raises(DataError, match=r"^overlap_sec: 1 s is no less than a crop, which has 1 s$"):
        dataset(folder, overlap_sec=1.0)


def test_an_unreadable_file_is_one_item_that_cannot_be_used(folder):
    (folder / "d.wav").write_bytes(b"RIFF")
    data = dataset(folder)
    item, why = data.exactly(6)
    assert item is None and "d.wav" in why and data.num_unreadable == 1
