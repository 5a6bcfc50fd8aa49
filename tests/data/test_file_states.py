import re

import pytest
import soundfile
import torch

from stable_audio_tools.data.audio_dir import LocalDatasetConfig, SampleDataset
from stable_audio_tools.data.base import ItemKey
from stable_audio_tools.data.dataset import create_dataloader_from_config
from stable_audio_tools.errors import DataError


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


def test_a_config_sets_the_share_and_workers_stop_the_run(write_noises, tmp_path):
    folder = write_noises(tmp_path, 8)
    spoil(folder, 4)
    config = {"dataset_type": "audio_dir", "datasets": [{"id": "x", "path": str(folder)}]}
    with pytest.raises(DataError, match=re.escape("more than 25% of")):
        list(create_dataloader_from_config(config, 1, 500, 8000, num_workers=2))
    assert len(list(create_dataloader_from_config(config | {"max_unreadable_share": 0.5}, 1, 500, 8000, num_workers=0))) == 12
