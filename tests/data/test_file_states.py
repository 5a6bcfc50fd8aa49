import re
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

from stable_audio_tools.data.audio_dir import LocalDatasetConfig, SampleDataset
from stable_audio_tools.data.base import ItemKey
from stable_audio_tools.data.dataset import create_dataloader_from_config
from stable_audio_tools.data.file_states import FileStates
from stable_audio_tools.data.scan import scan
from stable_audio_tools.errors import AudioError, DataError


def dataset_of(folder, **options):
    return SampleDataset([LocalDatasetConfig("id", str(folder))], 500, 8000, **options)


def spoil(folder, count):
    for index in range(count):
        (folder / f"bad{index:03}.wav").write_bytes(b"<html>")


def read_all(data):
    return [data[ItemKey(index, 0, 0)] for index in range(len(data))]


def test_a_share_of_unreadable_files_is_borne_and_more_is_an_error(write_noises, tmp_path):
    folder = write_noises(tmp_path, 8)
    spoil(folder, 2)
    assert len(read_all(dataset_of(folder, max_unreadable_share=0.2))) == 10
    message = (
        rf"2 of 10 files unreadable \({tmp_path}/bad000\.wav, {tmp_path}/bad001\.wav\); last: .*bad00.\.wav: is not audio .*; "
        r"more than 19% of 10 files cannot be decoded: mend or remove them \('sat data lint' names all\), or allow more with "
        r"max_unreadable_share"
    )
    with pytest.raises(DataError, match=message):
        read_all(dataset_of(folder, max_unreadable_share=0.19))


def test_a_few_bad_files_at_the_beginning_say_nothing_of_a_large_folder(write_noises, tmp_path):
    """Shares are judged by a hundred files, which need not all be read before that."""
    folder = write_noises(tmp_path, 2, seconds=0.1)
    for index in range(150):
        soundfile.write(folder / f"fine{index}.wav", torch.rand(800).numpy(), 8000)
    spoil(folder, 20)
    data = dataset_of(folder)
    assert data.filenames[2].endswith("bad000.wav")
    assert len(read_all(data)) == 172
    with pytest.raises(DataError, match=r"more than 10% of 1.. files cannot be decoded"):
        read_all(dataset_of(folder, max_unreadable_share=0.1))


class Known:
    """Files of which a manifest or a journal says how long they are."""

    known_from, finder = "a list", ""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return SimpleNamespace(path=f"{index}.wav")

    def known(self, column, otherwise):
        return np.full(self.count, 500.0 if column == "num_frames" else otherwise)

    def error(self, index):
        return ""


def test_the_share_is_judged_by_files_that_were_met_not_by_all_that_were_written_down():
    """A disk is lost, and the manifest still says how long each of 10,000 files is: 60 of 100 fail, not 60 of 10,000."""
    states = FileStates(Known(10_000), 0.25)
    for index in range(99):
        states.condemn(index, AudioError(f"{index}.wav: no such file")) if index % 5 < 3 else states.meet(index)
    with pytest.raises(DataError, match=r"more than 25% of 100 files cannot be decoded"):
        states.meet(99)
    assert states.num_unreadable == 60


def test_a_file_that_is_met_again_counts_once():
    states = FileStates(Known(10_000), 0.25)
    for _ in range(10):
        for index in range(30):
            states.meet(index)
    for index in range(30, 99):
        states.condemn(index, AudioError("odd"))
    with pytest.raises(DataError, match="more than 25% of 100 files"):
        states.meet(200)


def test_a_manifest_that_knows_all_lengths_does_not_make_up_for_files_that_are_gone(write_noises, tmp_path):
    folder = write_noises(tmp_path / "noises", 300, seconds=0.1)
    scan(folder)
    for path in sorted(folder.glob("*.wav"))[:70]:
        path.unlink()
    data = dataset_of(folder)
    assert int((data.states.lengths > 0).sum()) == 300
    with pytest.raises(DataError, match=r"more than 25% of 100 files cannot be decoded"):
        read_all(data)


def test_a_config_sets_the_share_and_workers_stop_the_run(write_noises, tmp_path):
    folder = write_noises(tmp_path, 8)
    spoil(folder, 4)
    config = {"dataset_type": "audio_dir", "datasets": [{"id": "x", "path": str(folder)}]}
    with pytest.raises(DataError, match=re.escape("more than 25% of")):
        list(create_dataloader_from_config(config, 1, 500, 8000, num_workers=2))
    assert len(list(create_dataloader_from_config(config | {"max_unreadable_share": 0.5}, 1, 500, 8000, num_workers=0))) == 12
