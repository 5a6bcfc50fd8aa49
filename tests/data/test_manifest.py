import logging
import multiprocessing
import os
import pickle
import re
import time
from pathlib import Path

import numpy as np
import pytest

from stable_audio_tools.data.audio_dir import LocalDatasetConfig, SampleDataset
from stable_audio_tools.data.base import ItemKey
from stable_audio_tools.data.dataset import create_dataloader_from_config
from stable_audio_tools.data.manifest import COLUMNS, Manifest, read_table, schema, write_table
from stable_audio_tools.data.metadata import Captions
from stable_audio_tools.data.scan import scan
from stable_audio_tools.errors import DataError

pa = pytest.importorskip("pyarrow")


@pytest.fixture
def folder(write_noises, tmp_path):
    folder = write_noises(tmp_path / "audio", 5)
    (folder / "sub").mkdir()
    (folder / "02.wav").rename(folder / "sub" / "02.wav")
    return folder


def dataset_of(folder, **options):
    return SampleDataset([LocalDatasetConfig("id", str(folder), **options)], 500, 8000)


def synthetic(path, count):
    """A manifest of files that are not there."""
    names = [f"{index % 100:02}/track_{index:07}_of_a_large_collection.mp3" for index in range(count)]
    names.sort(key=lambda name: name.split("/"))
    values = {"path": names, "num_frames": np.arange(1, count + 1), "sample_rate": np.full(count, 44100, np.int32)}
    columns = [pa.array(values[name], kind.type) if name in values else pa.nulls(count, kind.type) for name, kind in _fields()]
    write_table(pa.Table.from_arrays(columns, schema=schema()), path)
    return names


def _fields():
    return [(field.name, field) for field in schema()]


def test_a_manifest_is_open_as_it_was_written(tmp_path):
    names = synthetic(tmp_path / "m.parquet", 1000)
    manifest = Manifest(tmp_path / "m.parquet")
    assert list(manifest.names) == names and len(manifest) == 1000
    assert manifest.num_frames.tolist() == list(range(1, 1001))
    assert not manifest.num_frames.flags.owndata, "mapped, not copied"
    copied = pickle.loads(pickle.dumps(manifest))
    assert list(copied.names) == names
    assert len(pickle.dumps(manifest)) < 1000


def test_items_are_the_same_with_and_without_manifest(folder, caplog):
    (folder / "bad.wav").write_bytes(b"<html>")
    plain = dataset_of(folder)
    expected = [plain[ItemKey(index, 0, 4)] for index in range(len(plain))]
    scan(folder)
    listed = dataset_of(folder)
    assert listed.filenames == plain.filenames
    assert listed.num_unreadable == 1 and "left out, as the manifest says: 1 of 6 files unreadable" in caplog.text
    for index, (audio, info) in enumerate(expected):
        again, other = listed[ItemKey(index, 0, 4)]
        assert again.equal(audio) and other["relpath"] == info["relpath"] and other["timestamps"] == info["timestamps"]


def test_with_a_manifest_the_folder_is_not_searched_and_files_are_not_probed(folder, monkeypatch):
    scan(folder)

    def fail(*arguments, **options):
        raise AssertionError("searched, probed or measured")

    for name in ("data.file_table.find_audio_names", "audio.OpenAudio.probe", "data.audio_dir.measure"):
        monkeypatch.setattr(f"stable_audio_tools.{name}", fail)
    config = {"dataset_type": "audio_dir", "datasets": [{"id": "x", "path": str(folder)}], "volume_norm": True, "strip_silence": True}
    assert len(list(create_dataloader_from_config(config, 1, 500, 8000, num_workers=0))) == 5


def test_a_manifest_elsewhere_is_named_by_the_config(folder, tmp_path):
    scan(folder, tmp_path / "elsewhere.parquet")
    (folder / "new.wav").write_bytes((folder / "00.wav").read_bytes())
    assert len(dataset_of(folder)) == 6
    assert len(dataset_of(folder, manifest=str(tmp_path / "elsewhere.parquet"))) == 5


def test_a_filelist_chooses_from_a_manifest(folder):
    scan(folder)
    (folder / "filelist.txt").write_text("sub/02.wav\nabsent.wav\n00.wav\n")
    data = dataset_of(folder)
    assert [file.relpath for file in data.files] == ["sub/02.wav", "absent.wav", "00.wav"]
    assert data.lengths.tolist() == [4000, -1, 4000]


def test_captions_are_known_without_looking(folder, monkeypatch):
    (folder / "captions.csv").write_text("path,caption\n00.wav,zero\nsub/02.wav,two\n")
    (folder / "01.txt").write_text("one")
    scan(folder)
    captions = Captions(folder)
    monkeypatch.setattr(captions, "select", None)
    data = dataset_of(folder, captions=captions)
    assert [file.relpath for file in data.files] == ["00.wav", "01.wav", "sub/02.wav"]
    assert [data[ItemKey(index, 0, 0)][1]["prompt"] for index in range(3)] == ["zero", "one", "two"]


def test_an_older_mapped_file_is_not_used(folder):
    scan(folder)
    assert len(dataset_of(folder)) == 5
    (folder / "04.wav").unlink()
    scan(folder)
    assert len(dataset_of(folder)) == 4


def test_a_manifest_in_a_folder_that_cannot_be_written_is_mapped_elsewhere(folder, tmp_path, monkeypatch):
    scan(folder)
    from stable_audio_tools.data import manifest as module

    written = module._write_mapped

    def refuse(table, file, identity):
        if file.parent == folder:
            raise PermissionError(13, "Permission denied")
        written(table, file, identity)

    monkeypatch.setattr(module, "_write_mapped", refuse)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    assert len(Manifest(folder / "manifest.parquet")) == 5
    assert not (folder / ".manifest.parquet.mapped").exists() and list(tmp_path.glob("sat-manifest-*.mapped"))
    assert len(Manifest(folder / "manifest.parquet")) == 5


def test_what_is_no_manifest_is_refused(tmp_path, write_noises):
    with pytest.raises(DataError, match=r"no\.parquet: cannot be read: No such file.*; 'sat data scan' makes a manifest"):
        Manifest(tmp_path / "no.parquet")
    (tmp_path / "text.parquet").write_text("hello")
    with pytest.raises(DataError, match=r"text\.parquet: cannot be read as a manifest: .*; 'sat data scan' makes one"):
        Manifest(tmp_path / "text.parquet")
    pa.parquet = __import__("pyarrow.parquet").parquet
    pa.parquet.write_table(pa.table({"path": ["a.wav"]}), tmp_path / "other.parquet")
    with pytest.raises(DataError, match=r"other\.parquet: lacks the columns bytes, mtime_ns, .* of a manifest"):
        read_table(tmp_path / "other.parquet")
    empty = write_noises(tmp_path / "gone", 1)
    scan(empty, tmp_path / "gone.parquet")
    (empty / "00.wav").unlink()
    empty.rmdir()
    with pytest.raises(DataError, match=r"gone: no such folder, but .*gone\.parquet lists its files"):
        dataset_of(empty, manifest=str(tmp_path / "gone.parquet"))


def test_columns_are_documented():
    page = (Path(__file__).resolve().parents[2] / "docs" / "datasets.md").read_text(encoding="utf-8")
    assert [name for name in COLUMNS if f"`{name}`" not in page] == []


# ---- a million files -----------------------------------------------------------------------------------------------------------------


def _own_bytes():
    """Memory that belongs to this process alone, rather than to files that it maps."""
    text = Path("/proc/self/smaps_rollup").read_text()
    return sum(int(number) * 1024 for number in re.findall(r"^Anonymous:\s+(\d+) kB", text, re.MULTILINE))


def _as_a_worker(pickled, answers):
    """What a spawned worker does: unpickle the dataset, then look up some files."""
    import pyarrow  # noqa: F401

    before, began = _own_bytes(), time.perf_counter()
    data = pickle.loads(pickled)
    seconds = time.perf_counter() - began
    names = [data.files[index].relpath for index in range(0, len(data), len(data) // 1000)]
    answers.put((seconds, _own_bytes() - before, len(data), len(set(names))))


@pytest.mark.parametrize("count", [20_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_a_worker_opens_a_large_manifest_at_once_and_in_little_memory(tmp_path, count):
    if not os.path.exists("/proc/self/smaps_rollup"):
        pytest.skip("memory is counted by Linux")
    synthetic(tmp_path / "manifest.parquet", count)
    data = dataset_of(tmp_path)
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    pickled = pickle.dumps(_Unshared(data))
    worker = context.Process(target=_as_a_worker, args=(pickled, answers))
    worker.start()
    seconds, own, length, num_names = answers.get(timeout=120)
    worker.join()
    logging.getLogger(__name__).info("opened in %.3f s, %.1f MB of its own, %.1f kB pickled", seconds, own / 1e6, len(pickled) / 1e3)
    assert (length, num_names) == (count, 1000)
    assert seconds < 1 and own < 50e6
    assert len(pickled) < 100e3


class _Unshared:
    """A dataset without the tables that workers share, which cannot be pickled outside of a loader."""

    def __init__(self, data):
        self.data = data

    def __reduce__(self):
        return _files_only, (self.data.files,)


def _files_only(files):
    data = SampleDataset.__new__(SampleDataset)
    data.files = files
    return data
