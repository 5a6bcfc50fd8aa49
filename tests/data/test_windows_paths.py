"""Paths of Windows: what is written in lists, tables, manifests and configs there, and that nothing depends on the separator."""

from pathlib import PureWindowsPath

import numpy as np
import soundfile

from stable_audio_tools.config.dataset import ShardEntry
from stable_audio_tools.data.files import PathList, read_filelist
from stable_audio_tools.data.metadata import read_captions
from stable_audio_tools.data.shards import dataset as shard_dataset
from stable_audio_tools.data.shards.dataset import shard_source
from stable_audio_tools.data.shards.pack import _key, pack


def test_lists_and_tables_may_have_backslashes(tmp_path):
    (tmp_path / "list.txt").write_bytes(b"drums\\kick.wav\r\n.\\rain\\far.flac\r\n")
    assert read_filelist(tmp_path / "list.txt") == ["drums/kick.wav", "rain/far.flac"]
    (tmp_path / "paths.txt").write_bytes(b"C:\\music\\drums\\kick.wav\r\nsnare\r\n")
    paths = PathList(tmp_path / "paths.txt")
    assert paths.means("drums/kick.wav", {PureWindowsPath(r"C:\music").as_posix()}) and paths.means("drums/snare.wav", set())
    assert not paths.means("drums/kick.wav", {"D:/music"})
    (tmp_path / "captions.csv").write_bytes(b"path,caption\r\n.\\drums\\kick.wav,a kick\r\n")
    assert read_captions(tmp_path / "captions.csv") == {"drums/kick.wav": {"prompt": "a kick"}}


def test_names_in_shards_have_forward_slashes():
    assert _key(PureWindowsPath(r"deep.er\a b.v2.wav"), set()) == "deep_er/a_b_v2"


def test_the_shards_of_a_folder_are_found_whatever_its_separator_is(monkeypatch):
    monkeypatch.setattr(shard_dataset, "resolve", lambda path, base_dir: PureWindowsPath(path))
    for given, expected in ((r"C:\data\shards", "C:/data/shards"), (r"C:\data\index.json", "C:/data/index.json")):
        assert shard_source(ShardEntry(id="a", path=given), None).url == expected


def test_what_is_packed_is_called_by_its_path_with_forward_slashes(tmp_path):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    soundfile.write(tmp_path / "in" / "deep" / "a.wav", np.zeros(100), 8000)
    pack(tmp_path / "in", str(tmp_path / "out"))
    source = shard_source(ShardEntry(id="a", path=str(tmp_path / "out")), None)
    (sample,) = shard_dataset.ShardFiles([source], frozenset({".wav"}))
    assert sample.relpath == "deep/a.wav" and sample.described()["relpath"] == "deep/a.wav"
