"""Options of ``audio_dir`` that choose files, and those that change what is heard."""

import collections
import logging
import math
import random

import numpy as np
import pytest
import soundfile

from stable_audio_tools.audio import load, loudness_lufs, measure, normalizing_gain
from stable_audio_tools.config.check import check_dataset_config, check_files
from stable_audio_tools.config.source import Source
from stable_audio_tools.data.base import ItemKey
from stable_audio_tools.data.dataset import create_dataloader_from_config, create_dataset_from_config
from stable_audio_tools.data.metadata import INSTRUCTIONS
from stable_audio_tools.data.scan import scan
from stable_audio_tools.errors import ConfigError, DataError

RATE, SIZE = 8000, 500


@pytest.fixture
def folder(write_noises, tmp_path):
    return write_noises(tmp_path / "audio", 6)


def loader_of(*folders, entry=None, **top):
    entries = [{"id": "x", "path": str(folder), **(entry or {})} for folder in folders]
    options = {"num_workers": 0, "seed": 0} | {key: top.pop(key) for key in ("num_workers", "shuffle", "seed") if key in top}
    return create_dataloader_from_config({"dataset_type": "audio_dir", "datasets": entries, **top}, 1, SIZE, RATE, **options)


def names_of(loader):
    return [file.relpath for file in loader.dataset.files]


# ---- which files ---------------------------------------------------------------------------------------------------------------------


def test_lists_leave_out_and_choose(folder, tmp_path, caplog):
    (tmp_path / "out.txt").write_text(f"01.wav\n{folder}/02.wav\n# not 03\n")
    (tmp_path / "in.txt").write_text("audio\\02.wav\n02\n03\n04.wav\n")
    caplog.set_level(logging.INFO)
    assert names_of(loader_of(folder, exclude_paths_file=str(tmp_path / "out.txt"))) == ["00.wav", "03.wav", "04.wav", "05.wav"]
    assert "left out 2 files that are in" in caplog.text
    assert names_of(loader_of(folder, include_paths_file=str(tmp_path / "in.txt"))) == ["02.wav", "03.wav", "04.wav"]
    assert "left out 3 files that are not in" in caplog.text and "1 of 4 entries mean no file of the dataset (audio/02.wav)" in caplog.text
    both = {"exclude_paths_file": str(tmp_path / "out.txt"), "include_paths_file": str(tmp_path / "in.txt")}
    assert names_of(loader_of(folder, **both)) == ["03.wav", "04.wav"]


def test_lists_that_leave_nothing_are_errors(folder, tmp_path):
    (tmp_path / "none.txt").write_text("# nothing\n")
    with pytest.raises(DataError, match=r"none\.txt: names no files, so no file would be used; leave include_paths_file out to use all"):
        loader_of(folder, include_paths_file=str(tmp_path / "none.txt"))
    assert len(names_of(loader_of(folder, exclude_paths_file=str(tmp_path / "none.txt")))) == 6
    with pytest.raises(DataError, match=r"no audio files in .*/audio; all 6 that are there are left out by lists, keywords or captions"):
        loader_of(folder, entry={"keywords": ["kick"]})


def test_lists_are_looked_for_beside_the_config_and_checked(folder, tmp_path):
    (tmp_path / "out.txt").write_text("01")
    data = {"dataset_type": "audio_dir", "datasets": [{"id": "x", "path": "audio"}], "exclude_paths_file": "out.txt"}
    source = Source(data, "c.json", folder=tmp_path)
    assert check_files(source) == []
    assert len(create_dataloader_from_config(source, 1, SIZE, RATE, num_workers=0).dataset) == 5
    data |= {"include_paths_file": "no.txt", "datasets": [{"id": "x", "path": "audio", "filelist_path": "no2.txt", "manifest": "no3"}]}
    messages = [f"{mistake.path}: {mistake.message}" for mistake in check_files(Source(data, "c.json", folder=tmp_path))]
    assert messages == [
        "datasets[0].filelist_path: no2.txt: no such file", "datasets[0].manifest: no3: no such file",
        "include_paths_file: no.txt: no such file",
    ]  # fmt: skip


def test_keywords_choose_by_name_and_a_filelist_instead_of_looking(folder, tmp_path):
    for name in ("Deep Kick.wav", "kick/snare.wav", "snare.WAV"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes((folder / "00.wav").read_bytes())
    assert names_of(loader_of(folder, entry={"keywords": ["kick", "SNARE"]})) == ["Deep Kick.wav", "kick/snare.wav", "snare.WAV"]
    (folder / "filelist.txt").write_text("kick\\snare.wav\n05.wav\n01.wav\n")
    assert names_of(loader_of(folder)) == ["kick/snare.wav", "05.wav", "01.wav"], "in its order"
    (tmp_path / "other.txt").write_text("04.wav\n")
    assert names_of(loader_of(folder, entry={"filelist_path": str(tmp_path / "other.txt")})) == ["04.wav"]


def test_files_that_a_filelist_names_but_are_not_there_are_unreadable_files(folder):
    (folder / "filelist.txt").write_text("00.wav\nmissing.wav\n")
    loader = loader_of(folder, max_unreadable_share=0.5)
    assert len(list(loader)) == 2
    assert loader.dataset.summary().endswith("missing.wav)") and loader.dataset.num_unreadable == 1


# ---- weights -------------------------------------------------------------------------------------------------------------------------


def weighted(write_noises, tmp_path, weights, count=300, **top):
    entries = []
    for name, weight in weights.items():
        folder = write_noises(tmp_path / name, 1, seconds=0.1)
        for index in range(count):
            (folder / f"x{index}.wav").write_bytes((folder / "00.wav").read_bytes())
        entries.append({"id": name, "path": str(folder), "weight": weight})
    return create_dataloader_from_config({"dataset_type": "audio_dir", "datasets": entries, **top}, 1, 50, RATE, num_workers=0, seed=1)


def test_files_are_drawn_as_often_as_their_weights_say(write_noises, tmp_path):
    loader = weighted(write_noises, tmp_path, {"often": 3.0, "seldom": 1.0})
    keys = list(loader.sampler)
    assert len(keys) == len(loader.dataset) == 602
    share = sum(key.index < 301 for key in keys) / len(keys)
    assert share == pytest.approx(0.75, abs=0.06)  # 3.4 standard deviations
    counts = collections.Counter(key.index for key in keys)
    assert max(counts.values()) > 2, "with repetition"
    assert len({key.draw for key in keys}) == len(keys), "each draw has its own crop"


def test_equal_weights_draw_every_file_once(write_noises, tmp_path):
    loader = weighted(write_noises, tmp_path, {"a": 2.0, "b": 2.0}, count=5)
    assert sorted(key.index for key in loader.sampler) == list(range(12))


def test_a_file_that_is_drawn_twice_is_cropped_twice(write_noises, tmp_path):
    data = weighted(write_noises, tmp_path, {"a": 2.0}, count=1).dataset
    starts = {data[ItemKey(0, 0, 0, draw)][1]["timestamps"] for draw in range(8)}
    assert len(starts) > 5


def test_a_weighted_pass_resumes_where_it_was(write_noises, tmp_path):
    whole = weighted(write_noises, tmp_path, {"a": 3.0, "b": 1.0}, count=5)
    expected = [batch[0] for _ in range(2) for batch in whole]
    first = weighted(write_noises, tmp_path, {"a": 3.0, "b": 1.0}, count=5)
    batches = iter(first)
    seen = [next(batches)[0] for _ in range(7)]
    again = weighted(write_noises, tmp_path, {"a": 3.0, "b": 1.0}, count=5)
    again.load_state_dict(first.state_dict())
    seen += [batch[0] for _ in range(2) for batch in again]
    assert len(seen) == len(expected) and all(one.equal(two) for one, two in zip(seen, expected, strict=True))


@pytest.mark.parametrize(("weight", "message"), [(0, "greater than 0"), (-1.5, "greater than 0"), ("2", "valid number")])
def test_wrong_weights(folder, weight, message):
    with pytest.raises(ConfigError, match=rf"datasets\[0\]\.weight: .*{message}"):
        loader_of(folder, entry={"weight": weight})


# ---- what is heard -------------------------------------------------------------------------------------------------------------------


def quiet_music(path, *, gain=0.05, seconds=3.0, tail=0.0):
    rng = np.random.default_rng(1)
    samples = gain * rng.standard_normal(int(seconds * RATE)) * np.linspace(0.5, 1, int(seconds * RATE))
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.r_[samples, np.zeros(int(tail * RATE))].clip(-1, 1), RATE, subtype="FLOAT")
    return path


def test_volume_is_that_of_the_whole_file_before_the_crop(tmp_path):
    path = quiet_music(tmp_path / "a" / "x.wav")
    whole = load(path).samples
    loader = loader_of(path.parent, volume_norm=True, volume_norm_param=[-20, 0], augment_phase=False)
    gain = 10 ** ((-20 - loudness_lufs(whole, RATE)) / 20)
    audio, info = loader.dataset[ItemKey(0, 0, 0)]
    start = round(info["timestamps"][0] * whole.shape[1])
    assert (audio[0] - gain * whole[0, start : start + SIZE]).abs().max() < 1e-6
    assert loudness_lufs(whole * gain, RATE) == pytest.approx(-20, abs=0.01)


def test_volume_varies_within_its_range_and_never_clips(tmp_path):
    path = quiet_music(tmp_path / "a" / "x.wav")
    data = loader_of(path.parent, volume_norm=True, volume_norm_param=[-25, 3], augment_phase=False, random_crop=False).dataset
    plain = loader_of(path.parent, augment_phase=False, random_crop=False).dataset[ItemKey(0, 0, 0)][0]
    gains = [float((data[ItemKey(0, 0, seed)][0] / plain).median()) for seed in range(60)]
    levels = [20 * math.log10(gain) + measure(path).loudness_lufs for gain in gains]
    assert -28 <= min(levels) < -27 and -23 < max(levels) <= -22
    loud = loader_of(path.parent, volume_norm=True, volume_norm_param=[0, 0], augment_phase=False).dataset
    peaks = [float(loud[ItemKey(0, 0, seed)][0].abs().max()) for seed in range(30)]
    assert max(peaks) <= 0.951


def test_silence_has_no_volume():
    assert normalizing_gain(-math.inf, 0.0, target_lufs=-16) == normalizing_gain(-70, 0.001, target_lufs=-16) == 1
    assert normalizing_gain(math.nan, 0.1, target_lufs=-16) == 1


def test_options_that_draw_nothing_leave_the_draws_as_they_were(folder):
    plain, other = loader_of(folder), loader_of(folder, strip_silence=True, silence_threshold_db=-50, max_unreadable_share=1)
    for one, two in zip(plain, other, strict=True):
        assert one[0].equal(two[0])


def test_a_silent_end_is_stripped_and_a_pause_is_not(tmp_path):
    path = quiet_music(tmp_path / "a" / "x.wav", seconds=1.0, tail=2.0)
    quiet_music(tmp_path / "a" / "y.wav", seconds=1.0, tail=0.05)
    stripped, plain = (loader_of(path.parent, strip_silence=strip, silence_threshold_db=None).dataset for strip in (True, False))
    for index, (seconds, seconds_stripped) in enumerate([(3, 1), (2, 2)]):
        assert plain[ItemKey(index, 0, 0)][1]["seconds_total"] == seconds
        audio, info = stripped[ItemKey(index, 0, 0)]
        assert info["seconds_total"] == seconds_stripped
        assert (audio.abs().max(dim=0).values > 1e-3).float().mean() > 0.8
    crops = [plain[ItemKey(0, 0, seed)][0] for seed in range(30)]
    assert any(float(crop.abs().max()) == 0 for crop in crops), "without it, silence is met"


def test_a_stripped_crop_ends_where_the_audio_does(tmp_path):
    path = quiet_music(tmp_path / "a" / "x.wav", seconds=0.05, tail=2.0)
    audio, info = loader_of(path.parent, strip_silence=True).dataset[ItemKey(0, 0, 0)]
    assert int(info["padding_mask"].sum()) == 400 and float(audio[:, 400:].abs().max()) == 0


def test_a_file_that_is_all_silence_is_replaced_when_stripped(tmp_path):
    path = quiet_music(tmp_path / "a" / "x.wav")
    soundfile.write(path.parent / "silent.wav", np.zeros(8000), RATE)
    data = loader_of(path.parent, strip_silence=True, silence_threshold_db=None).dataset
    assert {data[ItemKey(index, 0, 0)][1]["relpath"] for index in range(2)} == {"x.wav"}
    assert "1 with silent crops" in data.summary()


@pytest.mark.parametrize(
    ("threshold", "names"), [(-60, {"faint.wav", "loud.wav"}), (-30, {"loud.wav"}), (None, {"off.wav", "faint.wav", "loud.wav"})]
)
def test_the_threshold_of_silence_is_a_setting(tmp_path, threshold, names):
    for name, level in (("off", 0.0), ("faint", 0.002), ("loud", 0.5)):
        soundfile.write(tmp_path / f"{name}.wav", np.full(4000, level), RATE, subtype="FLOAT")
    data = loader_of(tmp_path, silence_threshold_db=threshold).dataset
    assert {data[ItemKey(index, 0, 0)][1]["relpath"] for index in range(3)} == names


# ---- __replace__ ---------------------------------------------------------------------------------------------------------------------


def with_module(folder, body):
    (folder.parent / "md.py").write_text(f"import torch\ndef get_custom_metadata(info, audio):\n    {body}\n")
    return loader_of(folder, entry={"custom_metadata_module": str(folder.parent / "md.py")}, augment_phase=False).dataset


def test_a_module_can_replace_the_audio(folder):
    audio, info = with_module(folder, "return {'__replace__': audio[:1] * 0.5, 'prompt': 'half'}")[ItemKey(0, 0, 0)]
    plain, _ = loader_of(folder, augment_phase=False).dataset[ItemKey(0, 0, 0)]
    assert audio.equal(plain * 0.5)
    assert info["prompt"] == "half" and not INSTRUCTIONS & set(info)
    assert int(info["padding_mask"].sum()) == SIZE


def test_replacements_of_other_lengths_are_cut_or_padded(folder):
    audio, info = with_module(folder, "return {'__replace__': torch.full((2, 100), 3.0)}")[ItemKey(0, 0, 0)]
    assert audio.shape == (2, SIZE) and audio[:, :100].eq(1).all() and audio[:, 100:].eq(0).all()
    assert int(info["padding_mask"].sum()) == 100
    audio, info = with_module(folder, "return {'__replace__': torch.ones(1, 900)}")[ItemKey(0, 0, 0)]
    assert audio.shape == (2, SIZE) and int(info["padding_mask"].sum()) == SIZE
    assert with_module(folder, "return {'__replace__': None}")[ItemKey(0, 0, 0)][0].abs().max() > 0.1


def test_a_replacement_that_is_no_audio_is_refused(folder):
    with pytest.raises(DataError, match=r"0.\.wav: __replace__ is a float tensor \(C, T\), got torch\.float32 \(5,\)"):
        with_module(folder, "return {'__replace__': torch.zeros(5)}")[ItemKey(0, 0, 0)]


# ---- everything at once, in other processes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_every_option_works_in_workers(folder, tmp_path, method):
    (tmp_path / "md.py").write_text(
        "def get_custom_metadata(info, audio):\n    return {'prompt': info['relpath'], '__audio__': {'more': audio}}\n"
    )
    (tmp_path / "out.txt").write_text("05\n")
    (folder / "bad.wav").write_bytes(b"<html>")
    options = {
        "entry": {"custom_metadata_module": str(tmp_path / "md.py"), "weight": 2.0, "keywords": ["0", "bad"]}, "volume_norm": True,
        "strip_silence": True, "exclude_paths_file": str(tmp_path / "out.txt"), "drop_last": False,
    }  # fmt: skip
    plain, other = loader_of(folder, **options), loader_of(folder, **options, num_workers=2)
    other.multiprocessing_context = method
    random.seed(3)
    for one, two in zip(plain, other, strict=True):
        assert one[0].equal(two[0]) and one[1][0]["prompt"] == two[1][0]["prompt"] and one[1][0]["more"].equal(two[1][0]["more"])
    assert plain.dataset.summary() == other.dataset.summary() and plain.dataset.num_unreadable == 1


def test_options_are_checked_with_the_config():
    data = {"dataset_type": "audio_dir", "datasets": [{"id": "x", "path": "y"}], "volume_norm_param": [-16], "max_unreadable_share": 2}
    found = {mistake.path: mistake.message for mistake in check_dataset_config(data)}
    assert set(found) == {"volume_norm_param", "max_unreadable_share"}


@pytest.mark.parametrize("has_manifest", [False, True])
def test_batches_of_similar_length(tmp_path, write_noises, has_manifest):
    for index, seconds in enumerate((0.1, 0.5, 2.0)):
        write_noises(tmp_path / "in" / str(index), 4, seconds=seconds)
    if has_manifest:
        scan(tmp_path / "in")
    config = {"dataset_type": "audio_dir", "datasets": [{"id": "a", "path": str(tmp_path / "in")}], "length_buckets": [1000, 4000, 8000]}
    loader = create_dataloader_from_config(config, 2, 8000, 8000, 1, num_workers=0, seed=0)
    seen = [(audio.shape[-1], *(int(item["padding_mask"].sum()) for item in metadata)) for audio, metadata in loader]
    assert sorted(seen) == [(1000, 800, 800)] * 2 + [(4000, 4000, 4000)] * 2 + [(8000, 8000, 8000)] * 2
    dataset = loader.dataset
    assert dataset[0][0].shape == (1, 8000)  # a script that asks for items itself gets what it always got


def test_buckets_that_cannot_be(tmp_path, write_noises):
    folders = [{"id": name, "path": str(write_noises(tmp_path / name)), "weight": weight} for name, weight in (("a", 1.0), ("b", 2.0))]
    config = {"dataset_type": "audio_dir", "datasets": folders, "length_buckets": [1000, 4000]}
    with pytest.raises(DataError, match="length_buckets: 4000 samples are more than sample_size, which is 2000"):
        create_dataset_from_config(config, 2000, 8000, 1)
    with pytest.raises(DataError, match="length_buckets and weights of folders do not go together; leave out one of them"):
        create_dataset_from_config(config, 8000, 8000, 1)
