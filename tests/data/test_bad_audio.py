"""Each of the bad and unusual files: folders, crops, manifests and shards make of it what `sat data lint` says of it."""

import tarfile

import pytest

from stable_audio_tools.data.base import ItemKey
from stable_audio_tools.data.dataset import create_dataset_from_config
from stable_audio_tools.data.scan import scan
from stable_audio_tools.data.shards.pack import pack
from tests.data.test_lint import BAD_AUDIO

UNREADABLE = {name for name, kinds in BAD_AUDIO.items() if kinds & {"undecodable", "header"}}
SILENT = {name for name, kinds in BAD_AUDIO.items() if "silent" in kinds}
FOUND_BY_DECODING = {"derived/float32_with_nan_and_inf.wav"}  # packing and listing only look at headers


@pytest.fixture(scope="session")
def bad(shared):
    return shared / "data" / "bad-audio"


@pytest.fixture(scope="session")
def config_of(bad, tmp_path_factory):
    def config(kind):
        folder = tmp_path_factory.mktemp(kind.replace(" ", "-"))
        entry = {"id": "bad", "path": str(bad)}
        if kind == "manifest":
            entry["manifest"] = str(scan(bad, folder / "m.parquet").manifest)
        if kind == "wds":
            with tarfile.open(folder / "0.tar", "w") as tar:
                for number, name in enumerate(BAD_AUDIO):
                    tar.add(bad / name, f"{number:02}.{name.rsplit('.', 1)[-1]}")
            entry["path"] = str(folder)
        options = {"random_crop": False} if kind != "audio_crops" else {"min_crop_sec": 0}
        kind = kind if kind != "manifest" else "audio_dir"
        return {"dataset_type": kind, "datasets": [entry], "max_unreadable_share": 1, "augment_phase": False, **options}

    return config


def name_of(path):
    """In the table; shards number the files in its order."""
    text = str(path)
    return list(BAD_AUDIO)[int(text.rpartition("#")[2].split(".")[0])] if "#" in text else text.rpartition("bad-audio/")[2]


@pytest.mark.parametrize("kind", ["audio_dir", "manifest", "audio_crops", "wds"])
def test_every_file_is_used_or_not_for_the_reason_that_lint_gives(config_of, kind):
    data = create_dataset_from_config(config_of(kind), 40_000, 44_100, 2)
    paths = [data.files[index].path for index in range(len(data))] if kind == "wds" else data.filenames
    seen = {name: set() for name in BAD_AUDIO}
    for index, path in enumerate(paths):
        item, why = data.exactly(ItemKey(index, 0, 0))
        if item is None:
            seen[name_of(path)].add("silent" if "silent" in why else "unreadable")
            assert str(path) in why or kind == "manifest"
            continue
        audio, info = item
        assert audio.shape == (2, 40_000) and audio.isfinite().all() and 1e-3 <= audio.abs().max() <= 1
        assert 0 < int(info["padding_mask"].sum()) <= 40_000
        seen[name_of(path)].add("used")
    assert {name for name, outcomes in seen.items() if "unreadable" in outcomes} == UNREADABLE
    assert {name for name, outcomes in seen.items() if outcomes == {"silent"}} == SILENT
    assert {name for name, outcomes in seen.items() if "used" in outcomes} == set(BAD_AUDIO) - UNREADABLE - SILENT
    assert data.num_unreadable == len(UNREADABLE)


def test_what_can_be_opened_is_packed_byte_for_byte_and_the_rest_is_named(bad, tmp_path, caplog):
    result = pack(bad, str(tmp_path / "out"))
    assert (result.num_samples, result.num_left_out) == (26, 14)
    left_out = {name for name in BAD_AUDIO if any(f"left out: {bad / name}: " in message for message in caplog.messages)}
    assert left_out == UNREADABLE - FOUND_BY_DECODING
    with tarfile.open(tmp_path / "out" / "00000.tar") as tar:
        packed = {tar.extractfile(member).read() for member in tar.getmembers() if not member.name.endswith(".json")}
    assert packed == {(bad / name).read_bytes() for name in set(BAD_AUDIO) - left_out}
