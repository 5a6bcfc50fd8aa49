"""Short files that are kept in memory."""

import numpy as np
import pytest
import soundfile
import torch

from stable_audio_tools.data.base import ItemKey
from stable_audio_tools.data.dataset import create_dataset_from_config
from stable_audio_tools.data.decoded import DecodedFiles
from stable_audio_tools.errors import ConfigError

RATE, SIZE = 8000, 500


def test_what_was_not_used_for_longest_is_given_up():
    files = DecodedFiles(3 * 40)
    for index in range(3):
        files.keep(index, torch.full((1, 10), float(index)))
    assert files.get(0) is not None  # used again: now 1 is the oldest
    files.keep(3, torch.zeros(1, 10))
    assert [files.get(index) is None for index in range(4)] == [False, True, False, False]
    assert files.num_bytes == 120
    files.keep(4, torch.zeros(1, 31))  # too large for all of it: nothing is given up
    assert files.get(4) is None and len(files) == 3
    files.keep(5, torch.zeros(1, 20))
    assert files.num_bytes <= 120 and files.get(5) is not None


def test_a_file_that_is_kept_already_counts_once():
    files = DecodedFiles(100)
    files.keep(0, torch.zeros(1, 10))
    files.keep(0, torch.zeros(1, 10))
    assert files.num_bytes == 40


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for index, length in enumerate((300, 900, 1900, 2100)):  # at 8 kHz; the last one is longer than four crops
        soundfile.write(tmp_path / f"{index}.wav", rng.uniform(-0.5, 0.5, (length * 2, 1 + index % 2)), 2 * RATE)
    return tmp_path


def dataset(folder, **options):
    config = {"dataset_type": "audio_dir", "datasets": [{"id": "x", "path": str(folder)}], **options}
    return create_dataset_from_config(config, SIZE, RATE)


@pytest.mark.parametrize("options", [{}, {"volume_norm": True}, {"strip_silence": True, "random_crop": False}])
def test_items_are_those_of_a_dataset_that_keeps_nothing(folder, options):
    plain, kept, full = dataset(folder, **options), dataset(folder, cache_mb=10, **options), dataset(folder, cache_mb=0.000001, **options)
    for epoch in range(3):
        for index in range(4):
            key = ItemKey(index, epoch, 7)
            expected, described = plain[key]
            audio, metadata = kept[key]
            assert torch.allclose(audio, expected, atol=2e-6)
            assert metadata["timestamps"] == described["timestamps"]
            assert torch.equal(metadata["padding_mask"], described["padding_mask"])
            assert torch.equal(full[key][0], audio)  # whether there was room changes no bit
    assert len(kept.decoded) == 3 and len(full.decoded) == 0 and len(plain.decoded) == 0


def test_kept_files_are_not_opened_again(folder):
    kept = dataset(folder, cache_mb=10)
    before = [kept[ItemKey(index, 0, 0)][0] for index in range(3)]
    for index in range(3):
        (folder / f"{index}.wav").unlink()
    for index in range(3):
        assert torch.equal(kept[ItemKey(index, 0, 0)][0], before[index])


def test_changing_an_item_does_not_change_what_is_kept(folder):
    kept = dataset(folder, cache_mb=10, random_crop=False, augment_phase=False)
    for _ in range(2):
        audio, _ = kept[ItemKey(1, 0, 0)]
        assert audio.abs().sum() > 0
        audio.zero_()


def test_memory_cannot_be_negative(folder):
    with pytest.raises(ConfigError, match="cache_mb"):
        dataset(folder, cache_mb=-1)
