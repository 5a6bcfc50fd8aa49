import logging
import math
import random
import shutil

import numpy as np
import pytest
import soundfile
import torch

from stable_audio_tools.audio import force_channels, load, normalized_crop
from stable_audio_tools.data.audio_dir import SampleDataset
from stable_audio_tools.data.base import ItemKey
from stable_audio_tools.data.file_states import UNREADABLE
from stable_audio_tools.data.file_table import LocalDatasetConfig
from stable_audio_tools.data.metadata import RESERVED, Captions, MetadataModule
from stable_audio_tools.errors import DataError

RATE, SIZE = 22050, 30_000


def dataset_of(folder, *, size=SIZE, rate=RATE, metadata=None, **options):
    return SampleDataset([LocalDatasetConfig("id", str(folder), metadata)], size, rate, **options)


@pytest.fixture(scope="session")
def oneshots(shared, tmp_path_factory):
    """Twelve real sounds: short and long, mono and stereo, several rates."""
    folder = tmp_path_factory.mktemp("oneshots")
    source = shared / "data" / "real-oneshots"
    for name in ("sonic-pi", "esc-10", "drum-machines", "minetest-game"):
        for path in sorted((source / name).rglob("*.*"))[:3]:
            target = folder / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    return folder


def same(one, other):
    (audio, info), (audio2, info2) = one, other
    timeless = [{key: value for key, value in item.items() if key not in ("load_time", "padding_mask")} for item in (info, info2)]
    return audio.equal(audio2) and info["padding_mask"].equal(info2["padding_mask"]) and timeless[0] == timeless[1]


# ---- what an item is ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("augment", [False, True])
def test_an_item_is_the_slice_of_the_whole_file(oneshots, channels, augment):
    """The reference decodes and resamples the file, crops, flips, clamps, then forces channels; only the crop is decoded here."""
    data = dataset_of(oneshots, force_channels=channels, augment_phase=augment)
    for index in range(len(data)):
        key = ItemKey(index, 3, 7)
        audio, info = data[key]
        if info["path"] != data.filenames[index]:
            continue  # silent there
        rng = random.Random("7/3/" + str(index))
        whole = load(info["path"], sample_rate=RATE).samples
        crop = normalized_crop(whole, SIZE, RATE, randomize=True, rng=rng)
        polarity = -1 if augment and rng.random() < 0.5 else 1
        expected = force_channels((crop.audio * polarity).clamp(-1, 1), channels)
        assert audio.shape == (channels, SIZE)
        assert (audio - expected).abs().max() < 1e-5
        assert info["padding_mask"].equal(crop.padding_mask)


def test_metadata_is_what_the_reference_writes(oneshots):
    data = dataset_of(oneshots)
    for index, path in enumerate(data.filenames):
        _, info = data[ItemKey(index, 0, 1)]
        if info["path"] != path:
            continue
        assert set(info) == RESERVED
        count = load(path, sample_rate=RATE).samples.shape[-1]
        longer = max(count, SIZE)
        start = round(info["timestamps"][0] * longer)
        assert info["relpath"] == str(path).removeprefix(f"{oneshots}/")
        assert info["timestamps"] == (start / longer, (start + SIZE) / longer)
        assert info["seconds_start"] == math.floor(start / RATE)
        assert info["seconds_total"] == math.ceil(count / RATE)
        assert isinstance(info["seconds_start"], int) and isinstance(info["seconds_total"], int)
        assert info["padding_mask"].dtype == torch.float32 and info["padding_mask"].shape == (SIZE,)
        assert int(info["padding_mask"].sum()) == min(count, SIZE)
        assert info["sample_rate"] == RATE
        assert 0 <= info["load_time"] < 60


def test_without_random_crop_every_item_starts_at_zero(oneshots):
    data = dataset_of(oneshots, random_crop=False, augment_phase=False, size=2000)
    for index in range(4):
        audio, info = data[ItemKey(index, 0, 0)]
        assert info["timestamps"][0] == 0 and info["seconds_start"] == 0
        assert (audio - force_channels(load(info["path"], sample_rate=RATE).samples[:, :2000], 2)).abs().max() < 1e-5


def test_half_of_the_items_are_flipped_and_nothing_else_changes(write_noises, tmp_path):
    folder = write_noises(tmp_path, 1)
    plain, flipped = (dataset_of(folder, rate=8000, size=500, random_crop=False, augment_phase=augment) for augment in (False, True))
    original = plain[ItemKey(0, 0, 0)][0]
    signs = [1 if flipped[ItemKey(0, 0, seed)][0].equal(original) else -1 for seed in range(200)]
    assert all(sign == 1 or flipped[ItemKey(0, 0, seed)][0].equal(-original) for seed, sign in enumerate(signs))
    assert 70 < signs.count(-1) < 130


def test_what_exceeds_full_scale_is_clipped(shared, tmp_path):
    shutil.copy(shared / "data/bad-audio/derived/float32_peak_8x_full_scale.wav", tmp_path)
    audio, _ = dataset_of(tmp_path, rate=44100)[0]
    assert audio.abs().max() == 1


# ---- randomness --------------------------------------------------------------------------------------------------------------------


def test_the_same_key_is_the_same_item_whatever_was_read_before(oneshots):
    first, second = dataset_of(oneshots), dataset_of(oneshots)
    keys = [ItemKey(index, epoch, 5) for epoch in range(2) for index in range(len(first))]
    items = {key: first[key] for key in keys}
    random.seed(99)
    assert all(same(second[key], items[key]) for key in reversed(keys))


def test_epochs_and_seeds_crop_elsewhere(write_noises, tmp_path):
    data = dataset_of(write_noises(tmp_path, 1), rate=8000, size=500, augment_phase=False)
    starts = {data[ItemKey(0, epoch, seed)][1]["timestamps"][0] for epoch in range(5) for seed in range(5)}
    assert len(starts) > 20


def test_plain_indices_draw_from_the_global_stream(write_noises, tmp_path):
    data = dataset_of(write_noises(tmp_path, 1), rate=8000, size=500)
    random.seed(1)
    one, two = data[0], data[0]
    random.seed(1)
    assert same(data[0], one) and not same(one, two)


def test_what_replaces_a_bad_file_does_not_depend_on_when_it_was_found_out(write_noises, shared, tmp_path):
    """A resumed run meets bad files anew; it must go on with the same replacements."""
    write_noises(tmp_path, 6, seconds=2)
    shutil.copy(shared / "data/bad-audio/derived/truncated_half.flac", tmp_path / "000.flac")  # opens, but does not decode
    shutil.copy(shared / "data/bad-audio/derived/html_error_page.mp3", tmp_path / "001.mp3")
    options = {"rate": 8000, "size": 1000, "max_unreadable_share": 1}
    experienced = dataset_of(tmp_path, **options)
    keys = [ItemKey(index, epoch, 3) for epoch in range(6) for index in (0, 1)]
    for key in keys:
        experienced[key]
    assert int((experienced.lengths == UNREADABLE).sum()) >= 1
    for key in keys:
        assert same(dataset_of(tmp_path, **options)[key], experienced[key])


# ---- files that cannot be used -----------------------------------------------------------------------------------------------------


def test_every_strange_file_is_read_or_skipped_and_named_once(shared, caplog):
    data = dataset_of(shared / "data" / "bad-audio", size=4000, rate=44100, max_unreadable_share=1)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            for index in range(len(data)):
                audio, info = data[ItemKey(index, 0, 0)]
                assert audio.isfinite().all() and audio.abs().max() <= 1
                assert info["padding_mask"].sum() > 0
    unreadable = [data.filenames[index] for index in (data.lengths == UNREADABLE).nonzero().flatten()]
    named = [record.getMessage() for record in caplog.records if record.getMessage().startswith("skipped: ")]
    assert len(named) == len(unreadable) >= 8
    assert all(sum(path in message for message in named) == 1 for path in unreadable)
    assert any("html_error_page.mp3" in path for path in unreadable) and any("emptyfile.mp3" in path for path in unreadable)
    assert data.summary().startswith(f"{len(unreadable)} of {len(data)} files unreadable ({unreadable[0]}")


def test_one_good_file_among_many_bad_ones_is_enough(write_noises, tmp_path):
    write_noises(tmp_path, 1)
    for index in range(60):
        (tmp_path / f"bad{index}.wav").write_bytes(b"<html>")
    data = dataset_of(tmp_path, rate=8000, size=500, max_unreadable_share=1)
    for index in range(len(data)):
        assert data[ItemKey(index, 0, 0)][1]["relpath"] == "00.wav"
    assert data.summary().startswith("60 of 61 files unreadable (")


def test_only_bad_files_are_an_error_that_names_them(shared, tmp_path):
    for name in ("derived/html_error_page.mp3", "mutagen/emptyfile.mp3", "mutagen/ooming-header.flac"):
        shutil.copy(shared / "data/bad-audio" / name, tmp_path)
    message = (
        r"no usable audio found in 3 files: 3 of 3 files unreadable \(.*emptyfile\.mp3, .*html_error_page\.mp3, .*ooming-header\.flac\)"
    )
    with pytest.raises(DataError, match=message):
        dataset_of(tmp_path, max_unreadable_share=1)[ItemKey(0, 0, 0)]


def test_silence_is_left_out(write_noises, tmp_path):
    write_noises(tmp_path, 2)
    soundfile.write(tmp_path / "silent.wav", np.zeros(4000), 8000)
    soundfile.write(tmp_path / "quiet.wav", np.full(4000, 0.0009), 8000, subtype="FLOAT")
    soundfile.write(tmp_path / "faint.wav", np.full(4000, 0.0011), 8000, subtype="FLOAT")
    data = dataset_of(tmp_path, rate=8000, size=500)
    names = {data[ItemKey(index, epoch, 0)][1]["relpath"] for index in range(len(data)) for epoch in range(3)}
    assert names == {"00.wav", "01.wav", "faint.wav"}, "-60 dB is the limit"


def test_an_item_is_exactly_another_crop_of_itself_rather_than_none(tmp_path):
    """What is encoded once for all must not leave a file out since the one crop that was tried fell into a pause."""
    soundfile.write(tmp_path / "half.wav", np.r_[np.zeros(20_000), 0.5 * np.ones(20_000)], 8000)
    soundfile.write(tmp_path / "none.wav", np.zeros(20_000), 8000)
    data = dataset_of(tmp_path, rate=8000, size=200)
    for seed in range(30):
        item, why = data.exactly(ItemKey(0, 0, seed))
        assert item is not None and not why and item[0].abs().max() > 0.4
        again, _ = data.exactly(ItemKey(0, 0, seed))
        assert again is not None and same(again, item)
    assert data.exactly(ItemKey(1, 0, 0))[0] is None and "none.wav: silent from " in data.exactly(ItemKey(1, 0, 0))[1]
    fixed = dataset_of(tmp_path, rate=8000, size=200, random_crop=False)
    assert fixed.exactly(ItemKey(0, 0, 0))[0] is None, "there is only one crop"


def test_channels_that_cancel_are_silence(write_noises, tmp_path):
    left = np.random.default_rng(0).uniform(-0.5, 0.5, 4000)
    soundfile.write(write_noises(tmp_path, 1) / "wide.wav", np.stack([left, -left], 1), 8000)
    mono, stereo = (dataset_of(tmp_path, rate=8000, size=500, force_channels=count) for count in (1, 2))
    assert mono[ItemKey(1, 0, 0)][1]["relpath"] == "00.wav" and "1 with silent crops" in mono.summary()
    assert stereo[ItemKey(1, 0, 0)][1]["relpath"] == "wide.wav" and stereo.num_skipped == 0


def test_a_silent_crop_does_not_condemn_a_file(tmp_path):
    soundfile.write(tmp_path / "half.wav", np.r_[np.zeros(20_000), 0.5 * np.ones(20_000)], 8000)
    data = dataset_of(tmp_path, rate=8000, size=200)
    for epoch in range(20):  # half of the crops are silent; several are tried
        assert data[ItemKey(0, epoch, 0)][0].abs().max() > 0.4


def test_only_silence_is_an_error_that_says_so(shared, tmp_path):
    for name in ("digital_silence.wav", "almost_silent.wav"):
        shutil.copy(shared / "data/bad-audio/audiomentations" / name, tmp_path)
    with pytest.raises(
        DataError,
        match=r"found in 2 files: 0 of 2 files unreadable; 2 with silent crops.*\(.*silen.*\); last: .*_silen.*\.wav: silent from 0 s",
    ):
        dataset_of(tmp_path)[0]


def test_a_folder_without_audio_is_refused(tmp_path):
    with pytest.raises(DataError, match=rf"no audio files in {tmp_path}"):
        dataset_of(tmp_path)


def test_a_wrong_number_of_channels_is_refused(write_noises, tmp_path):
    with pytest.raises(DataError, match=r"force_channels must be 'mono', 'stereo' or a number, got 'surround'"):
        dataset_of(write_noises(tmp_path, 1), force_channels="surround")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "sample_size must be a whole number of at least 1, got 0"),
        ({"size": 4096.0}, r"sample_size must be a whole number of at least 1, got 4096\.0"),
        ({"rate": 0}, "sample_rate must be a whole number of at least 1, got 0"),
        ({"force_channels": 0}, "force_channels must be a whole number of at least 1, got 0"),
    ],
)
def test_impossible_numbers_are_not_blamed_on_the_files(write_noises, tmp_path, options, message):
    with pytest.raises(DataError, match=message):
        dataset_of(write_noises(tmp_path, 1), **options)


def test_files_with_silent_crops_are_counted_once_and_named(write_noises, tmp_path):
    write_noises(tmp_path, 2)
    soundfile.write(tmp_path / "silent.wav", np.zeros(4000), 8000)
    data = dataset_of(tmp_path, rate=8000, size=500)
    assert data.num_skipped == 0
    for index in (2, 2, 0):
        data[ItemKey(index, 0, 0)]
    assert data.num_skipped == 1 and data.num_unreadable == 0
    assert data.summary() == f"0 of 3 files unreadable; 1 with silent crops, which were replaced ({tmp_path}/silent.wav)"


# ---- metadata modules in the dataset -------------------------------------------------------------------------------------------------


@pytest.fixture
def with_module(write_noises, tmp_path):
    def make(body, count=4, **options):
        folder = write_noises(tmp_path / "audio", count)
        (tmp_path / "module.py").write_text(f"def get_custom_metadata(info, audio):\n    {body}")
        return dataset_of(folder, rate=8000, size=500, metadata=MetadataModule(tmp_path / "module.py"), **options)

    return make


def test_custom_metadata_joins_the_rest_and_wins(with_module):
    _, info = with_module("return {'prompt': info['relpath'] + str(tuple(audio.shape)), 'seconds_total': 47}")[ItemKey(2, 0, 0)]
    assert info["prompt"] == "02.wav(2, 500)"
    assert info["seconds_total"] == 47
    assert set(info) == RESERVED | {"prompt"}


def test_rejected_items_are_replaced(with_module):
    data = with_module("return {'__reject__': info['relpath'] != '01.wav'}")
    for index in range(4):
        _, info = data[ItemKey(index, 0, 0)]
        assert info["relpath"] == "01.wav" and "__reject__" not in info


def test_files_with_rejected_crops_are_counted_once_and_named(with_module, tmp_path):
    data = with_module("return {'__reject__': info['relpath'] != '01.wav'}")
    for index in (0, 3, 3):
        data[ItemKey(index, 0, 0)]
    assert data.num_skipped >= 2
    assert "0 of 4 files unreadable; " in data.summary() and " with rejected crops, which were replaced (" in data.summary()
    assert f"{tmp_path}/audio/03.wav" in data.summary() and "01.wav" not in data.summary()


def test_rejecting_everything_is_an_error(with_module):
    with pytest.raises(DataError, match=r"no usable audio found in 4 files: .*; last: .*\.wav: rejected by the metadata module"):
        with_module("return {'__reject__': True}")[ItemKey(0, 0, 0)]


@pytest.mark.parametrize("channels", [1, 2])
def test_further_audio_is_cropped_and_flipped_like_the_item(with_module, channels):
    body = "from stable_audio_tools.audio import load; return {'__audio__': {'vocals': load(info['path']).samples}}"
    data = with_module(body, force_channels=channels)
    for seed in range(8):
        audio, info = data[ItemKey(1, 0, seed)]
        assert info["vocals"].equal(audio)
        assert "__audio__" not in info


def test_further_audio_may_be_shorter_than_the_start_of_the_crop(with_module):
    _, info = with_module("import torch; return {'__audio__': {'tail': torch.ones(1, 20)}}")[ItemKey(0, 0, 0)]
    assert info["tail"].shape == (2, 500)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("None", r"0.\.wav: __audio__ is a dictionary of audio \(C, T\) by name, got NoneType"),
        ("{'x': 3}", r"0.\.wav: __audio__\['x'\] is a float tensor \(C, T\), got int"),
        ("{'x': torch.zeros(5)}", r"__audio__\['x'\] is a float tensor \(C, T\), got torch\.float32 \(5,\)"),
        ("{'x': torch.zeros(1, 5).int()}", r"__audio__\['x'\] is a float tensor \(C, T\), got torch\.int32 \(1, 5\)"),
    ],
)
def test_further_audio_that_is_none_is_refused(with_module, given, message):
    with pytest.raises(DataError, match=message):
        with_module(f"import torch; return {{'__audio__': {given}}}")[ItemKey(0, 0, 0)]


def test_an_error_in_a_module_stops_the_run_and_names_the_file(with_module):
    with pytest.raises(DataError, match=r"module\.py: get_custom_metadata failed for .*03\.wav: ZeroDivisionError: division by zero"):
        with_module("return {'x': 1 / 0}")[ItemKey(3, 0, 0)]


# ---- captions and several folders ------------------------------------------------------------------------------------------------------


def captioned(folder, **options):
    return SampleDataset([LocalDatasetConfig("id", str(folder), None, Captions(folder, **options))], 500, 8000)


def test_captions_become_prompts(write_noises, tmp_path):
    write_noises(tmp_path, 2)
    (tmp_path / "captions.csv").write_text("path,caption\n00.wav,zero\n01.wav,one\n")
    (tmp_path / "01.txt").write_text("uno")
    data = captioned(tmp_path)
    assert [data[ItemKey(index, 0, 0)][1]["prompt"] for index in range(2)] == ["zero", "uno"]


def test_files_that_the_table_lacks_are_left_out_and_named(write_noises, tmp_path, caplog):
    write_noises(tmp_path, 6)
    (tmp_path / "captions.csv").write_text("path,caption\n00.wav,zero\n01.wav,one\nmissing.wav,?\n")
    (tmp_path / "05.json").write_text('{"prompt": "five"}')
    data = captioned(tmp_path)
    assert [name[-6:] for name in data.filenames] == ["00.wav", "01.wav", "05.wav"]
    assert "left out 3 of 6 files (02.wav, 03.wav, 04.wav) that have no caption in" in caplog.text
    assert "captions.csv; add them, or give the folder a 'caption'" in caplog.text
    assert len(captioned(tmp_path, caption="any")) == 6


def test_a_table_about_other_files_is_refused(write_noises, tmp_path):
    write_noises(tmp_path, 1)
    (tmp_path / "captions.csv").write_text("path,caption\nelsewhere/00.wav,zero\n")
    with pytest.raises(DataError, match=rf"captions\.csv: none of its paths is a file below {tmp_path}; paths are relative to that folder"):
        captioned(tmp_path)


def test_similarly_named_and_nested_folders_keep_their_own_names_and_metadata(write_noises, tmp_path):
    for name in ("set", "set2", "set2/inner"):
        write_noises(tmp_path / name, 1)
    configs = [
        LocalDatasetConfig(name, str(tmp_path / name), lambda info, audio, name=name: {"prompt": name})
        for name in ("set", "set2", "set2/inner")
    ]
    data = SampleDataset(configs, 500, 8000)
    items = [data[ItemKey(index, 0, 0)][1] for index in range(len(data))]
    assert [(item["prompt"], item["relpath"]) for item in items] == [
        ("set", "00.wav"), ("set2", "00.wav"), ("set2", "inner/00.wav"), ("set2/inner", "00.wav"),
    ]  # fmt: skip
