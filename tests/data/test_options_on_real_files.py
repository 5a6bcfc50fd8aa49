"""Every option of the dataset types of audio, on real files: what it changes is what it promises."""

import csv
import shutil

import numpy as np
import pytest
import torch

from stable_audio_tools.audio import force_channels, load, loudness_lufs, measure
from stable_audio_tools.data.base import ItemKey
from stable_audio_tools.data.dataset import create_dataloader_from_config, create_dataset_from_config
from stable_audio_tools.data.file_states import UNKNOWN
from stable_audio_tools.data.scan import scan
from stable_audio_tools.errors import DataError
from tests.data.conftest import SHARDS, SOUNDS
from tests.data.proofs import Proofs

RATE, SIZE = 22050, 8192
FOLDERS = ("audio_dir", "audio_crops")
proofs = Proofs(*FOLDERS, *SHARDS)
every_kind = pytest.mark.parametrize("kind", [*FOLDERS, *SHARDS])
every_folder = pytest.mark.parametrize("kind", FOLDERS)


def items(config, *, seed=0, epoch=0, channels=1, size=SIZE):
    """All items themselves, by file and place in it."""
    data = create_dataset_from_config(config, size, RATE, channels)
    found = [data.exactly(ItemKey(index, epoch, seed))[0] for index in range(len(data))]
    return {(item[1]["relpath"], item[1]["timestamps"][0]): item for item in found if item is not None}


def cut(path, start, *, channels=1, size=SIZE):
    """The crop that begins with the share ``start`` of a file, from a decode of all of it; and how much of it is no padding."""
    whole = force_channels(load(path, sample_rate=RATE).samples, channels)
    first = round(start * max(whole.shape[-1], size))
    part = whole[:, first : first + size]
    return torch.nn.functional.pad(part, (0, size - part.shape[-1])).clamp(-1, 1), part.shape[-1]


# ---- what is cut out ---------------------------------------------------------------------------------------------------------------


@proofs.of("path", "random_crop")
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("kind", ["audio_dir", *SHARDS])
def test_random_crop(config_of, sounds, kind, channels):
    for randomly in (False, True):
        found = items(config_of(kind, random_crop=randomly), channels=channels)
        assert {name for name, _ in found} == set(SOUNDS)
        assert sum(start > 0 for _, start in found) == 0 if not randomly else sum(start > 0 for _, start in found) >= 5
        for (name, start), (audio, info) in found.items():
            expected, count = cut(sounds / name, start, channels=channels)
            assert (audio - expected).abs().max() < 1e-5, name
            assert int(info["padding_mask"].sum()) == count


@proofs.of("path", kinds=("audio_crops",))
@proofs.of("overlap_sec", "min_crop_sec", kinds=("audio_crops",))
@pytest.mark.parametrize(("overlap", "least"), [(0.0, 0.0), (0.1, 0.0), (0.0, 0.2)])
def test_crops_make_up_the_files(config_of, sounds, overlap, least):
    found = items(config_of("audio_crops", overlap_sec=overlap, min_crop_sec=least))
    hop = SIZE - round(overlap * RATE)
    for name in SOUNDS:
        total = load(sounds / name, sample_rate=RATE).samples.shape[-1]
        starts = [start for start in range(0, total, hop) if start == 0 or total - start > max(SIZE - hop, least * RATE - 1)]
        assert [round(share * max(total, SIZE)) for path, share in found if path == name] == starts, name
    for (name, start), (audio, _) in found.items():
        assert (audio - cut(sounds / name, start)[0]).abs().max() < 1e-5, name


@proofs.of("length_buckets", kinds=("audio_dir", *SHARDS))
@pytest.mark.parametrize("kind", ["audio_dir", *SHARDS])
def test_length_buckets(config_of, sounds, kind):
    buckets = [4096, 8192, 16384]
    loader = create_dataloader_from_config(config_of(kind, length_buckets=buckets), 2, 16384, RATE, 1, num_workers=0, seed=0)
    seen = {}
    for audio, metadata in loader:
        assert audio.shape[-1] in buckets
        for info in metadata:
            total = load(sounds / info["relpath"], sample_rate=RATE).samples.shape[-1]
            seen[info["relpath"]] = audio.shape[-1]
            assert int(info["padding_mask"].sum()) == min(total, audio.shape[-1])
    assert set(seen) == set(SOUNDS) and set(seen.values()) == set(buckets)


@proofs.of("cache_mb", kinds=FOLDERS)
@pytest.mark.parametrize("megabytes", [0, 0.2, 100])
@pytest.mark.parametrize("kind", FOLDERS)
def test_cache_mb(config_of, sounds, tmp_path, kind, megabytes):
    """Sounds that were decoded once need no file, as far as they have room: those of up to four crops."""
    folder = shutil.copytree(sounds, tmp_path / "sounds")
    data = create_dataset_from_config(config_of(kind, folder, cache_mb=megabytes), SIZE, RATE, 1)
    owners = data.owners.tolist() if kind == "audio_crops" else range(len(SOUNDS))
    before = [data[index][0] for index in range(len(data))]
    kept = [file for file in range(len(SOUNDS)) if data.decoded.get(file) is not None]
    sizes = {file: load(data.files[file].path, sample_rate=RATE).samples for file in range(len(SOUNDS))}
    short = [file for file, whole in sizes.items() if whole.shape[-1] <= 4 * SIZE]
    assert 0 < len(short) < len(SOUNDS)
    assert kept == short if megabytes == 100 else len(kept) < len(short)
    assert data.decoded.num_bytes == sum(sizes[file].nbytes for file in kept) <= megabytes * 1e6
    shutil.rmtree(folder)
    for index, file in enumerate(owners):
        if file in kept:
            assert data[index][0].equal(before[index])


@proofs.of("drop_last")
@every_kind
def test_drop_last(config_of, kind):
    total = len(create_dataset_from_config(config_of(kind), SIZE, RATE, 1))
    for drop_last, counts in ((True, [5] * (total // 5)), (False, [5] * (total // 5) + [total % 5])):
        loader = create_dataloader_from_config(config_of(kind, drop_last=drop_last), 5, SIZE, RATE, 1, num_workers=0, seed=0)
        assert [len(audio) for audio, _ in loader] == counts and total % 5


# ---- what is done to it -------------------------------------------------------------------------------------------------------------


@proofs.of("augment_phase")
@every_kind
def test_augment_phase(config_of, kind):
    plain = items(config_of(kind))
    signs = []
    for epoch in range(4):
        for place, (audio, _) in items(config_of(kind, augment_phase=True), epoch=epoch).items():
            signs.append(1 if audio.equal(plain[place][0]) else -1)
            assert audio.equal(signs[-1] * plain[place][0])
    assert 0.25 < signs.count(-1) / len(signs) < 0.75


@proofs.of("volume_norm", "volume_norm_param")
@every_kind
@pytest.mark.parametrize("spread", [0, 4])
def test_volume_norm(config_of, sounds, kind, spread):
    """Each file has the loudness asked for, unless that would drive it above full scale."""
    plain, deviations = items(config_of(kind)), []
    for place, (audio, _) in items(config_of(kind, volume_norm=True, volume_norm_param=[-23, spread])).items():
        whole, rate = load(sounds / place[0])
        before = plain[place][0]
        if before.abs().max() < 1e-3:
            continue
        gain = float((audio * before).sum() / before.square().sum())
        deviation = loudness_lufs(whole * gain, rate) + 23
        is_limited = abs(float(whole.abs().max()) * gain - 0.95) < 1e-3
        assert is_limited or abs(deviation) <= spread + 0.05, place
        deviations += [] if is_limited else [deviation]
    assert len(deviations) >= 6 and (np.std(deviations) > 1) == (spread > 0)


@proofs.of("strip_silence", kinds=FOLDERS)
@every_folder
def test_strip_silence(config_of, sounds, kind):
    """A sneeze that is followed by silence up to five seconds ends where the sneeze does."""
    name = "esc-10/006 - Person sneeze/1-59324-A.ogg"
    measured = measure(sounds / name)
    audible = -(-measured.audible_frames * RATE // measured.info.sample_rate)
    total = load(sounds / name, sample_rate=RATE).samples.shape[-1]
    assert audible < total - RATE, "there is silence to strip"
    size = 2 * total
    for strip, length in ((True, audible), (False, total)):
        ((_, info),) = (item for place, item in items(config_of(kind, strip_silence=strip), size=size).items() if place[0] == name)
        assert int(info["padding_mask"].sum()) == length and info["seconds_total"] == -(-length // RATE)


@proofs.of("silence_threshold_db")
@every_kind
def test_silence_threshold_db(config_of, shared, tmp_path, kind):
    for name in ("digital_silence.wav", "almost_silent.wav", "bus.opus"):
        shutil.copy(shared / "data/bad-audio/audiomentations" / name, tmp_path)
    almost = 20 * np.log10(measure(tmp_path / "almost_silent.wav").peak)
    for threshold, names in (
        (-60, {"bus.opus"}),
        (almost - 1, {"bus.opus", "almost_silent.wav"}),
        (None, {path.name for path in tmp_path.iterdir()}),
    ):
        assert {name for name, _ in items(config_of(kind, tmp_path, silence_threshold_db=threshold), size=40_000)} == names


# ---- which files --------------------------------------------------------------------------------------------------------------------


@proofs.of("exclude_paths_file", "include_paths_file", kinds=FOLDERS)
@every_folder
def test_lists_of_files(config_of, sounds, tmp_path, kind):
    (tmp_path / "list.txt").write_text(f"kick\n{SOUNDS[0]}\n{sounds / SOUNDS[1]}\nesc-10\\006 - Person sneeze\\1-59324-A.ogg\n")
    meant = {SOUNDS[0], SOUNDS[1], SOUNDS[3], SOUNDS[5]}
    for option, names in (("include_paths_file", meant), ("exclude_paths_file", set(SOUNDS) - meant)):
        assert {name for name, _ in items(config_of(kind, **{option: str(tmp_path / "list.txt")}))} == names


@proofs.of("keywords", "filelist_path", kinds=FOLDERS)
@every_folder
def test_keywords_and_filelist(config_of, tmp_path, kind):
    assert {name for name, _ in items(config_of(kind, entry={"keywords": ["KICK", "tabla"]}))} == {SOUNDS[3], SOUNDS[0]}
    (tmp_path / "list.txt").write_text(f"{SOUNDS[4]}\n{SOUNDS[2]}\n")
    found = items(config_of(kind, entry={"filelist_path": str(tmp_path / "list.txt")}))
    assert list(dict.fromkeys(name for name, _ in found)) == [SOUNDS[4], SOUNDS[2]]


@proofs.of("manifest", kinds=FOLDERS)
@every_folder
def test_manifest(config_of, sounds, tmp_path, kind):
    manifest = scan(sounds, tmp_path / "m.parquet").manifest
    known = create_dataset_from_config(config_of(kind, entry={"manifest": str(manifest)}), SIZE, RATE, 1)
    assert (known.lengths > 0).all(), "without opening a file"
    if kind == "audio_dir":
        assert (create_dataset_from_config(config_of(kind), SIZE, RATE, 1).lengths == UNKNOWN).all()
    one, other = items(config_of(kind)), items(config_of(kind, entry={"manifest": str(manifest)}))
    assert one.keys() == other.keys() and all(one[place][0].equal(other[place][0]) for place in one)


@proofs.of("weight", kinds=FOLDERS)
@every_folder
def test_weight(config_of, sounds, shared, kind):
    config = config_of(kind, drop_last=True)
    config["datasets"].append({"id": "loud", "path": str(shared / "data/real-oneshots/dirt-bass1"), "weight": 30.0})
    loader = create_dataloader_from_config(config, 1, SIZE, RATE, 1, num_workers=0, seed=0)
    names = [loader.dataset.filenames[key.index] for key in loader.sampler]
    heavy = sum("dirt-bass1" in name for name in loader.dataset.filenames)
    expected = 30 * heavy / (30 * heavy + len(names) - heavy)
    assert np.mean(["dirt-bass1" in name for name in names]) == pytest.approx(expected, abs=0.2)
    assert expected > 0.9 and heavy / len(names) < 0.7, "equal weights would give another share"


@proofs.of("max_unreadable_share", kinds=FOLDERS)
@every_folder
def test_max_unreadable_share(config_of, shared, kind):
    folder = shared / "data/bad-audio"

    def read(share):
        data = create_dataset_from_config(config_of(kind, folder, max_unreadable_share=share), SIZE, RATE, 1)
        for index in range(len(data)):
            data[ItemKey(index, 0, 0)]
        return data

    assert read(1).num_unreadable > 10
    with pytest.raises(DataError, match=r"more than 25% of 40 files cannot be decoded: mend or remove them"):
        read(0.25)


# ---- what is said of them -----------------------------------------------------------------------------------------------------------


@proofs.of("caption", "captions_file")
@every_folder
def test_captions(config_of, shared, tmp_path, kind):
    with open(shared / "data/real-oneshots/captions.csv", newline="") as file:
        rows = {row["path"]: row for row in csv.DictReader(file)}
    for (name, _), (_, info) in items(config_of(kind)).items():
        assert (info["prompt"], info["licence"]) == (rows[name]["caption"], rows[name]["licence"])
    (tmp_path / "mine.csv").write_text(f"path,caption\n{SOUNDS[0]},a tabla\n")
    only = items(config_of(kind, entry={"captions_file": str(tmp_path / "mine.csv")}))
    assert {(name, info["prompt"]) for (name, _), (_, info) in only.items()} == {(SOUNDS[0], "a tabla")}
    both = items(config_of(kind, entry={"captions_file": str(tmp_path / "mine.csv"), "caption": "a sound"}))
    assert {name: info["prompt"] for (name, _), (_, info) in both.items()} == dict.fromkeys(SOUNDS, "a sound") | {SOUNDS[0]: "a tabla"}


@proofs.of("caption", kinds=SHARDS)
@pytest.mark.parametrize("kind", SHARDS)
def test_a_caption_for_samples_that_have_none(config_of, shared, kind):
    folder = shared / "data/real-oneshots/dirt-bass1"
    found = items(config_of(kind, folder, entry={"caption": "a bass"}))
    assert len(found) == 8 and {info["prompt"] for _, info in found.values()} == {"a bass"}
    assert not any("prompt" in info for _, info in items(config_of(kind, folder)).values())


MODULE = """
from pathlib import Path
from stable_audio_tools.audio import load

def get_custom_metadata(info, audio):
    name = info["relpath"]
    if name.endswith("kick.ogg"):
        return {"__reject__": True}
    if name.endswith("jump.ogg"):
        return {"__replace__": audio * 0.5}
    whole = load(Path(%r) / name, sample_rate=info["sample_rate"]).samples
    return {"bpm": 120, "prompt": info["prompt"] + "!", "__audio__": {"stem": whole}}
"""


@proofs.of("custom_metadata_module")
@every_kind
def test_custom_metadata_module(config_of, sounds, tmp_path, kind):
    (tmp_path / "md.py").write_text(MODULE % str(sounds))
    plain, found = items(config_of(kind)), items(config_of(kind, entry={"custom_metadata_module": str(tmp_path / "md.py")}))
    assert {name for name, _ in plain} - {name for name, _ in found} == {"drum-machines/MFB-512/kick.ogg"}
    for place, (audio, info) in found.items():
        assert not {"__reject__", "__replace__", "__audio__"} & set(info)
        if place[0].endswith("jump.ogg"):
            assert audio.equal(plain[place][0] * 0.5)
            continue
        assert audio.equal(plain[place][0]) and info["bpm"] == 120 and info["prompt"] == plain[place][1]["prompt"] + "!"
        assert (info["stem"] - audio).abs().max() < 1e-5, "cropped as the item is"


def test_every_option_of_folders_is_proved():
    assert {kind: options for kind, options in proofs.missing().items() if kind in FOLDERS} == {}
