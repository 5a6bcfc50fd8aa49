import json
import logging
import re

import numpy as np
import pytest
import soundfile
import torch

from stable_audio_tools.config.dataset import resolve
from stable_audio_tools.data.dataset import create_dataloader_from_config
from stable_audio_tools.errors import ConfigError, DataError


@pytest.fixture
def config(write_noises, tmp_path):
    def make(count=10, *, entry=None, **top):
        folder = write_noises(tmp_path / "audio", count)
        return {"dataset_type": "audio_dir", "datasets": [{"id": "noises", "path": str(folder), **(entry or {})}], **top}

    return make


def load(config, batch_size=4, **options):
    return create_dataloader_from_config(config, batch_size, 500, 8000, **{"num_workers": 0, **options})


def test_a_batch_is_audio_and_metadata(config):
    audio, metadata = next(iter(load(config())))
    assert audio.shape == (4, 2, 500) and audio.dtype == torch.float32
    assert len(metadata) == 4 and metadata[0]["relpath"].endswith(".wav")


@pytest.mark.parametrize("channels", [1, 2])
def test_audio_channels_are_the_models(config, channels):
    assert next(iter(load(config(), audio_channels=channels)))[0].shape == (4, channels, 500)


@pytest.mark.parametrize(("drop_last", "sizes"), [(True, [4, 4]), (False, [4, 4, 2])])
def test_drop_last(config, drop_last, sizes):
    loader = load(config(drop_last=drop_last))
    assert [len(batch[0]) for batch in loader] == sizes and len(loader) == len(sizes)


def test_fewer_files_than_a_batch_are_refused_or_make_one_smaller_batch(config):
    message = r'dataset config: 3 files do not fill a batch of 4; use a smaller batch size or set "drop_last": false'
    with pytest.raises(DataError, match=message):
        load(config(3))
    assert [len(batch[0]) for batch in load(config(3, drop_last=False))] == [3]


def test_the_switches_reach_the_dataset(config):
    data = load(config(random_crop=False, augment_phase=False)).dataset
    assert (data.random_crop, data.augment_phase, data.sample_size, data.sample_rate) == (False, False, 500, 8000)


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_deliver_the_same_batches(config, workers):
    torch.manual_seed(0)
    plain = load(config())
    torch.manual_seed(0)
    other = load(config(), num_workers=workers)
    for _ in range(2):
        for one, two in zip(plain, other, strict=True):
            assert one[0].equal(two[0])
            assert [item["timestamps"] for item in one[1]] == [item["timestamps"] for item in two[1]]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_metadata_module_works_in_workers(config, tmp_path, method):
    (tmp_path / "md.py").write_text("def get_custom_metadata(info, audio):\n    return {'prompt': 'from ' + info['relpath']}")
    loader = load(config(4, entry={"custom_metadata_module": str(tmp_path / "md.py")}), num_workers=1)
    loader.multiprocessing_context = method
    assert sorted(item["prompt"] for item in next(iter(loader))[1]) == [f"from 0{index}.wav" for index in range(4)]


def test_errors_in_workers_name_the_file(config, tmp_path):
    (tmp_path / "md.py").write_text("def get_custom_metadata(info, audio):\n    return info['bpm']")
    loader = load(config(4, entry={"custom_metadata_module": str(tmp_path / "md.py")}), num_workers=1)
    with pytest.raises(DataError) as caught:
        next(iter(loader))
    assert re.fullmatch(r"\S*md\.py: get_custom_metadata failed for \S*\.wav: KeyError: 'bpm'", str(caught.value))  # no traceback in it
    assert "in DataLoader worker process 0" in str(caught.value.__cause__)
    loader._iterator._shutdown_workers()  # the traceback holds it


def test_bad_files_are_known_to_all_workers_and_to_the_main_process(config, tmp_path):
    built = config(6, max_unreadable_share=0.5)
    for index in range(3):
        (tmp_path / "audio" / f"bad{index}.wav").write_bytes(b"<html>")
    loader = load(built, batch_size=1, num_workers=2)
    assert len(list(loader)) == 9
    assert loader.dataset.summary().startswith("3 of 9 files unreadable (")


@pytest.mark.parametrize("workers", [0, 2])
def test_after_a_pass_the_loader_says_what_was_skipped_if_that_is_news(config, tmp_path, caplog, workers):
    built = config(6)
    (tmp_path / "audio" / "bad.wav").write_bytes(b"<html>")
    soundfile.write(tmp_path / "audio" / "silent.wav", np.zeros(4000), 8000)
    loader = load(built, num_workers=workers)
    with caplog.at_level(logging.INFO):
        batches = iter(loader)
        told = []
        for _ in range(len(loader)):  # as Lightning does: it never sees the end
            next(batches)
            told.append([record.getMessage() for record in caplog.records if record.name == "stable_audio_tools.data.loader"])
        list(loader)
    assert told[:-1] == [[]] * (len(loader) - 1)
    assert told[-1] == [
        f"data: 1 of 8 files unreadable ({tmp_path}/audio/bad.wav); 1 with silent crops, which were replaced ({tmp_path}/audio/silent.wav)"
    ]
    assert [record.getMessage() for record in caplog.records if record.name == "stable_audio_tools.data.loader"] == told[-1]


# ---- where files are ---------------------------------------------------------------------------------------------------------------


def test_paths_are_relative_to_the_working_directory_or_to_the_config_file(config, tmp_path, monkeypatch):
    built = config(4, entry={"path": "audio", "custom_metadata_module": "md.py", "captions_file": "words.csv"})
    (tmp_path / "md.py").write_text("def get_custom_metadata(info, audio):\n    return {'module': True}")
    (tmp_path / "words.csv").write_text("path,caption\n" + "".join(f"0{n}.wav,c{n}\n" for n in range(4)))
    (tmp_path / "dataset.json").write_text(json.dumps(built))

    def first():
        return next(iter(load(tmp_path / "dataset.json")))[1][0]

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    item = first()
    assert item["module"] and item["prompt"] == f"c{item['relpath'][1]}"
    monkeypatch.chdir(tmp_path)
    assert first()["module"]


def test_what_exists_here_goes_before_what_exists_beside_the_config(tmp_path, monkeypatch):
    for folder in ("here", "base"):
        (tmp_path / folder / "audio").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    assert resolve("audio", tmp_path / "base").resolve() == tmp_path / "here" / "audio"
    monkeypatch.chdir(tmp_path)
    assert resolve("audio", tmp_path / "base") == tmp_path / "base" / "audio"
    assert resolve("nowhere", tmp_path / "base").as_posix() == "nowhere"
    assert resolve(str(tmp_path / "here"), tmp_path / "base") == tmp_path / "here"


def test_the_home_folder_can_be_written_as_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve("~/sounds", None) == tmp_path / "sounds"


def test_a_module_is_tried_before_any_item_is_read(config, tmp_path):
    (tmp_path / "md.py").write_text("import no_such_package")
    with pytest.raises(ConfigError, match=r"custom_metadata_module: .*md\.py: ModuleNotFoundError: No module named 'no_such_package'"):
        load(config(4, entry={"custom_metadata_module": str(tmp_path / "md.py")}))


def test_a_broken_sidecar_is_found_before_any_item_is_read(config, tmp_path):
    built = config(4)
    (tmp_path / "audio" / "03.json").write_text("{")
    with pytest.raises(DataError, match=r"03\.json:1:2  not valid JSON"):
        load(built)


# ---- mistakes ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dataset_type": "audio_dirs"}, r"dataset_type: unknown dataset_type 'audio_dirs'; did you mean 'audio_dir'\?"),
        ({"dataset_type": None}, r"dataset_type: required key is missing; one of .*audio_dir"),
        ({"random_crops": True}, r"random_crops: unknown key; did you mean 'random_crop'\?"),
        ({"random_crop": "sometimes"}, r"random_crop: .*boolean"),
        ({"custom_metadata_module": "md.py"}, r'custom_metadata_module: unknown key here; it belongs in each entry of "datasets"'),
        (
            {"datasets": [{"id": "a", "path": "x", "random_crop": True}]},
            r'datasets\[0\]\.random_crop: unknown key here; it belongs beside "datasets"',
        ),
        ({"force_channels": 2}, r'force_channels: unknown key here; it belongs in the model config, as "audio_channels"'),
        ({"datasets": None}, r"datasets: .*"),
        ({"datasets": [{"path": "x"}]}, r"datasets\[0\]\.id: required key is missing"),
        (
            {"datasets": [{"id": "a", "path": "x", "captionfile": "c"}]},
            r"datasets\[0\]\.captionfile: unknown key; did you mean 'captions_file'",
        ),
        ({"datasets": [{"id": "a", "path": "x", "custom_metadata_module": "no.py"}]}, r"custom_metadata_module: no\.py: no such file"),
    ],
)
def test_mistakes_in_the_config_are_named(config, change, message):
    with pytest.raises(ConfigError, match=message):
        load({**config(), **change})


def test_every_mistake_is_reported_at_its_place_in_the_file(tmp_path):
    (tmp_path / "dataset.json").write_text(
        '{\n  "dataset_type": "audio_dir",\n  "datasets": [{"id": "a", "pat": "x"}],\n  "drop_lst": 1\n}'
    )
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "dataset.json")
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert any(line.startswith(f"{tmp_path}/dataset.json:3:28  datasets[0].pat: unknown key; did you mean 'path'?") for line in lines)
    assert any(":4:3  drop_lst: unknown key; did you mean 'drop_last'?" in line for line in lines)


def test_a_missing_folder_is_a_data_error(config):
    with pytest.raises(DataError, match=r"nowhere: no such folder"):
        load(config(entry={"path": "nowhere"}))


def test_an_empty_path_is_not_the_working_directory(config):
    with pytest.raises(ConfigError, match=r"datasets\[0\]\.path: .*at least 1 character"):
        load(config(entry={"path": ""}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, got 0"),
        ({"batch_size": 2.0}, r"batch_size must be a whole number of at least 1, got 2\.0"),
        ({"num_workers": -1}, "num_workers must be a whole number of at least 0, got -1"),
    ],
)
def test_impossible_numbers_are_refused(config, options, message):
    with pytest.raises(DataError, match=message):
        load(config(), **options)


def test_an_empty_list_of_folders_is_refused(config):
    with pytest.raises(DataError, match=r"datasets: the list is empty; give at least one folder"):
        load({**config(), "datasets": []})


def test_comments_are_fine_and_the_config_is_not_changed(config):
    built = config(comment="mine", _note={"a": 1})
    before = json.dumps(built)
    load(built)
    assert json.dumps(built) == before
