import csv
import hashlib
import math
import os
import shutil
import threading

import pytest

from stable_audio_tools.audio import measure
from stable_audio_tools.data import scan as scanning
from stable_audio_tools.data.manifest import COLUMNS, read_table
from stable_audio_tools.data.scan import scan
from stable_audio_tools.errors import DataError

pytest.importorskip("pyarrow")


def rows_of(path):
    return {row["path"]: row for row in read_table(path).to_pylist()}


@pytest.fixture
def folder(write_noises, tmp_path):
    return write_noises(tmp_path / "audio", 6)


def test_a_row_is_what_measuring_says(shared, tmp_path):
    folder = tmp_path / "sounds"
    names = ["sonic-pi/" + path.name for path in sorted((shared / "data/real-oneshots/sonic-pi").iterdir())[:3]]
    names += ["cc0.mp3", "x.ogg"]
    (folder / "sonic-pi").mkdir(parents=True)
    for name in names[:3]:
        shutil.copy(shared / "data/real-oneshots" / name, folder / name)
    shutil.copy(next((shared / "data/real-music").rglob("*.mp3")), folder / "cc0.mp3")
    shutil.copy(sorted((shared / "data/real-oneshots").rglob("*.ogg"))[0], folder / "x.ogg")
    report = scan(folder)
    rows = rows_of(report.manifest)
    assert report.manifest == folder / "manifest.parquet" and list(rows) == sorted(names, key=lambda name: name.split("/"))
    for name, row in rows.items():
        found = measure(folder / name)
        assert set(row) == set(COLUMNS) and row["error"] is None
        assert (row["num_frames"], row["sample_rate"], row["num_channels"], row["format"]) == (
            found.info.num_frames, found.info.sample_rate, found.info.num_channels, found.info.format,
        )  # fmt: skip
        assert row["peak"] == pytest.approx(found.peak) and row["loudness_lufs"] == pytest.approx(found.loudness_lufs, rel=1e-6)
        assert row["sha256"] == hashlib.sha256((folder / name).read_bytes()).hexdigest()
        assert row["bytes"] == (folder / name).stat().st_size and row["caption_source"] is None


def test_hashes_and_licences_are_those_of_the_source(shared, tmp_path):
    folder = shared / "data/real-music/librosa-examples"
    target = tmp_path / "librosa-examples"
    target.mkdir()
    names = sorted(path.name for path in folder.iterdir())[:2]
    with open(shared / "data/real-music/manifest.csv", newline="") as file:
        hashes = {row["path"]: row["sha256"] for row in csv.DictReader(file)}
    with open(shared / "data/real-music/captions.csv", newline="") as file:
        licences = {row["path"]: row["licence"] for row in csv.DictReader(file)}
    for name in names:
        shutil.copy(folder / name, target / name)
    shutil.copy(shared / "data/real-music/captions.csv", tmp_path / "captions.csv")
    for name, row in rows_of(scan(tmp_path).manifest).items():
        assert row["sha256"] == hashes[name] and row["licence"] == licences[name] and row["caption_source"] == "captions.csv"


def test_only_new_and_changed_files_are_read_again(folder, monkeypatch):
    first = scan(folder)
    assert (first.num_files, first.num_read) == (6, 6)
    before = rows_of(first.manifest)
    (folder / "00.wav").unlink()
    shutil.copy(folder / "01.wav", folder / "new.wav")
    os.utime(folder / "02.wav", ns=(1, 1))
    read = []
    monkeypatch.setattr(scanning, "read_row", lambda root, name, original=scanning.read_row: read.append(name) or original(root, name))
    second = scan(folder)
    assert sorted(read) == ["02.wav", "new.wav"]
    assert (second.num_files, second.num_read, second.num_gone) == (6, 2, 1)
    after = rows_of(second.manifest)
    assert after["new.wav"] == before["01.wav"] | {key: after["new.wav"][key] for key in ("path", "mtime_ns")}
    assert {name: after[name] for name in ("01.wav", "03.wav")} == {name: before[name] for name in ("01.wav", "03.wav")}
    assert scan(folder).num_read == 0


def test_captions_are_read_anew_in_every_scan(folder):
    scan(folder)
    (folder / "00.txt").write_text("zero")
    (folder / "01.json").write_text('{"prompt": "one", "license": "CC0"}')
    (folder / "02.json").write_text('{"bpm": 3}')
    (folder / "03.json").write_text("{")
    report = scan(folder)
    rows = rows_of(report.manifest)
    assert report.num_read == 0
    assert [rows[f"0{index}.wav"]["caption_source"] for index in range(4)] == ["txt", "json", None, None]
    assert rows["01.wav"]["licence"] == "CC0"
    assert "not valid JSON" in rows["03.wav"]["caption_problem"] and rows["02.wav"]["caption_problem"] is None


def test_files_that_cannot_be_decoded_have_a_row_that_says_why(folder, shared):
    shutil.copy(shared / "data/bad-audio/derived/truncated_half.flac", folder)
    (folder / "link.wav").symlink_to(folder / "nowhere.wav")
    report = scan(folder)
    rows = rows_of(report.manifest)
    assert report.num_unreadable == 2
    assert rows["truncated_half.flac"]["error"].startswith("header promises 69305 frames, the file holds 24576")
    assert rows["truncated_half.flac"]["num_frames"] is None and rows["truncated_half.flac"]["sha256"]
    assert rows["link.wav"]["error"] == "cannot be read: No such file or directory"


def test_silence_has_a_row(tmp_path, shared):
    shutil.copy(shared / "data/bad-audio/audiomentations/digital_silence.wav", tmp_path)
    row = rows_of(scan(tmp_path).manifest)["digital_silence.wav"]
    assert (row["peak"], row["silence_share"], row["audible_frames"], row["loudness_lufs"]) == (0, 1, 0, -math.inf)


@pytest.mark.parametrize("saves", [0.0, 1e9])
def test_a_scan_that_is_broken_off_goes_on_where_it_was(folder, monkeypatch, saves):
    monkeypatch.setattr(scanning, "SAVE_SECONDS", saves)

    def stop(progress):
        if progress.num_done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scan(folder, jobs=2, on_progress=stop)
    assert not (folder / "manifest.parquet").exists() and (folder / "manifest.parquet.partial").exists()
    report = scan(folder)
    assert report.num_read == 2
    assert not (folder / "manifest.parquet.partial").exists() and not list(folder.glob(".*.tmp"))
    assert rows_of(report.manifest) == rows_of(scan(folder, folder.parent / "other.parquet").manifest)


def test_files_are_read_at_the_same_time(folder, monkeypatch):
    together = threading.Barrier(3, timeout=10)
    original = scanning.read_row
    monkeypatch.setattr(scanning, "read_row", lambda root, name: (together.wait(), original(root, name))[1])
    assert scan(folder, jobs=3).num_read == 6  # breaks if fewer than three wait for each other


def test_progress_counts_files_bytes_and_time(folder):
    told = []
    scan(folder, on_progress=told.append, jobs=1)
    assert [progress.num_done for progress in told] == [1, 2, 3, 4, 5, 6]
    assert all(progress.num_files == 6 for progress in told)
    assert told[-1].num_bytes == sum(path.stat().st_size for path in folder.glob("*.wav"))


def test_what_cannot_be_written_is_said_before_anything_is_read(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(scanning, "read_row", lambda root, name: pytest.fail("was read"))
    with pytest.raises(DataError, match=rf"{tmp_path}: is a folder; name a file in it, such as {tmp_path}/manifest\.parquet"):
        scan(folder, tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(
        DataError, match=r'file/m\.parquet: cannot be written: .*; write it elsewhere with --output, and name it as "manifest"'
    ):
        scan(folder, tmp_path / "file" / "m.parquet")


def test_the_folder_of_a_manifest_is_made(folder, tmp_path):
    assert scan(folder, tmp_path / "new" / "deep" / "m.parquet").manifest.is_file()


def test_a_folder_without_audio_is_refused(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a.mid", "b.MID", "c.zip", "d"):
        (tmp_path / "in" / name).touch()
    with pytest.raises(DataError, match=r"in: holds no audio files, but 4 other files \(\.mid, \.zip, without suffix\)$"):
        scan(tmp_path / "in")
    with pytest.raises(DataError, match=rf"{tmp_path}: holds no audio files"):
        scan(tmp_path)


def test_a_name_that_is_not_unicode_is_refused(folder):
    try:
        (folder / os.fsdecode(b"\xff.wav")).touch()
    except OSError:
        pytest.skip("this file system has Unicode names only")
    with pytest.raises(DataError, match=r"the name '\\udcff\.wav' is not valid UTF-8, which a manifest needs; rename the file"):
        scan(folder)
