"""Folders to shards, and back."""

import json
import shutil
import tarfile

import numpy as np
import pytest
import torch

from stable_audio_tools.data.dataset import create_dataloader_from_config, create_dataset_from_config
from stable_audio_tools.data.shards import pack as pack_module
from stable_audio_tools.data.shards.pack import PackOptions, pack
from stable_audio_tools.data.shards.sources import AudioSource
from stable_audio_tools.data.shards.storage import Storage
from stable_audio_tools.data.shards.tars import format_index
from stable_audio_tools.errors import AudioError, DataError

SMALL = PackOptions(shard_bytes=30_000, num_jobs=2)  # three files of 8 kB each


@pytest.fixture
def folder(tmp_path, write_noises):
    """Twelve noises; some with captions and metadata; names that shards do not like."""
    root = write_noises(tmp_path / "music", 10)
    (root / "deep.er").mkdir()
    shutil.copy(root / "00.wav", root / "deep.er" / "a b.v2.wav")
    shutil.copy(root / "01.wav", root / "deep.er" / "a b_v2.wav")
    (root / "03.txt").write_text("a noise")
    (root / "04.json").write_text(json.dumps({"prompt": "ein Geräusch", "bpm": 120, "tags": ["x"]}))
    return root


def contents(out):
    """Name -> bytes of everything in the folder."""
    return {path.name: path.read_bytes() for path in sorted(out.iterdir())}


def samples(out, **options):
    config = {"dataset_type": "wds", "datasets": [{"id": "a", "path": str(out)}], "resampled_shards": False, "drop_last": False}
    loader = create_dataloader_from_config({**config, **options}, 1, 4000, 8000, 1, num_workers=0, seed=0)
    return {infos[0]["relpath"]: (audio[0], infos[0]) for audio, infos in loader}


def test_what_is_packed_is_what_the_folder_holds(folder, tmp_path):
    out = tmp_path / "out" / "shards"
    result = pack(folder, str(out), SMALL)
    assert result._replace(num_bytes=0) == (4, 12, 0, 0, 0)
    assert [path.name for path in sorted(out.iterdir())] == sorted(
        [f"{number:05}.{ext}" for number in range(4) for ext in ("tar", "idx", "jsonl")] + ["index.json", "pack.json"]
    )
    manifest = json.loads((out / "index.json").read_text())
    assert manifest["num_samples"] == 12 and [shard["url"] for shard in manifest["shardlist"]] == [
        f"{number:05}.tar" for number in range(4)
    ]
    assert sum(shard["nsamples"] for shard in manifest["shardlist"]) == 12

    config = {"dataset_type": "audio_dir", "datasets": [{"id": "a", "path": str(folder)}], "drop_last": False, "augment_phase": False}
    direct = create_dataloader_from_config(config, 1, 4000, 8000, 1, num_workers=0, shuffle=False, seed=0)
    packed = samples(out, augment_phase=False)
    assert len(packed) == 12
    for audio, (info,) in direct:
        item, extra = packed[info["relpath"]]
        assert item.equal(audio[0])
        kept = {key: value for key, value in info.items() if key not in ("path", "load_time", "padding_mask")}
        assert {key: extra[key] for key in kept} == kept, "captions and sidecar files have become the sample's metadata"


def test_the_prompt_of_a_file_stays_its_prompt_beside_a_text(folder, tmp_path, write_tar, wav):
    """In shards of other programs, a text is the prompt."""
    (folder / "captions.csv").write_text("path,caption,text\n" + "".join(f"{number:02}.wav,drums,odd\n" for number in range(10)))
    pack(folder, str(tmp_path / "out"), SMALL)
    _, info = samples(tmp_path / "out")["01.wav"]
    assert (info["prompt"], info["text"]) == ("drums", "odd") and not any("own" in key for key in info)
    write_tar(tmp_path / "foreign" / "0.tar", {"a.wav": wav(), "a.json": b'{"prompt": "drums", "text": "odd"}'})
    assert samples(tmp_path / "foreign")["a.wav"][1]["prompt"] == "odd"


def test_the_shards_are_plain_webdataset_shards(folder, tmp_path):
    pack(folder, str(tmp_path / "out"), SMALL)
    keys = []
    for shard in sorted((tmp_path / "out").glob("*.tar")):
        with tarfile.open(shard) as tar:
            names = tar.getnames()
            assert all(member.mtime == 0 and not member.uname for member in tar.getmembers())
        keys += [name[:-4] for name in names if name.endswith(".wav")]
        assert names == [f"{name[:-4]}.{ext}" for name in names if name.endswith(".wav") for ext in ("wav", "json")]
    assert len(set(keys)) == 12 and not any(" " in key or "." in key for key in keys)


def test_the_same_files_make_the_same_shards_and_are_mixed(folder, tmp_path):
    for name, options in (("a", SMALL), ("b", SMALL), ("sorted", PackOptions(shard_bytes=30_000, seed=None))):
        pack(folder, str(tmp_path / name), options)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert list(samples(tmp_path / "sorted")) != sorted(samples(tmp_path / "sorted"))  # a pass shuffles
    assert contents(tmp_path / "a")["00000.tar"] != contents(tmp_path / "sorted")["00000.tar"]


class _KilledError(Exception):
    """Stands for the end of the process."""


@pytest.mark.parametrize("after", [0, 1, 3])
def test_an_interrupted_run_goes_on_and_ends_with_the_same_files(folder, tmp_path, monkeypatch, after):
    pack(folder, str(tmp_path / "whole"), SMALL)
    written, real = [], pack_module._write

    def write(shard, *arguments):
        if len(written) == after:
            (arguments[-1] / shard.name).write_bytes(b"half a shard")
            raise _KilledError
        written.append(shard.name)
        return real(shard, *arguments)

    monkeypatch.setattr(pack_module, "_write", write)
    options = PackOptions(shard_bytes=30_000, num_jobs=1)
    with pytest.raises(_KilledError):
        pack(folder, str(tmp_path / "out"), options)
    (tmp_path / "out" / ".packing-dead").mkdir()  # what a process that was killed leaves
    monkeypatch.setattr(pack_module, "_write", real)
    result = pack(folder, str(tmp_path / "out"), options)
    assert (result.num_kept, result.num_samples) == (after, 12)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert pack(folder, str(tmp_path / "out"), options).num_kept == 4


def test_shards_of_other_files_are_never_joined(folder, tmp_path):
    pack(folder, str(tmp_path / "out"), SMALL)
    with pytest.raises(DataError, match=r"out: holds shards of other files, or packed with other options"):
        pack(folder, str(tmp_path / "out"), PackOptions(shard_bytes=40_000))
    (folder / "11.wav").write_bytes((folder / "00.wav").read_bytes())
    with pytest.raises(DataError, match=r"out: holds shards of other files"):
        pack(folder, str(tmp_path / "out"), SMALL)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "x.tar").touch()
    with pytest.raises(DataError, match=r"foreign: holds shards that were not packed here; give an empty folder"):
        pack(folder, str(tmp_path / "foreign"), SMALL)


def test_a_metadata_module_is_asked_and_unreadable_files_stay_out(folder, tmp_path, caplog):
    (folder / "05.wav").write_bytes(b"RIFFnothing")
    module = tmp_path / "module.py"
    module.write_text(
        "def get_custom_metadata(info, audio):\n"
        "    if info['relpath'] == '06.wav': return {'__reject__': True}\n"
        "    return {'peak': float(audio.abs().max()), 'length': audio.shape[-1], 'rate': info['sample_rate']}\n"
    )
    result = pack(folder, str(tmp_path / "out"), PackOptions(shard_bytes=30_000, custom_metadata_module=module))
    assert (result.num_samples, result.num_left_out) == (10, 2)
    assert "left out: " in caplog.text and "05.wav" in caplog.text
    packed = samples(tmp_path / "out")
    assert {"05.wav", "06.wav"}.isdisjoint(packed)
    audio, info = packed["07.wav"]
    assert (info["length"], info["rate"]) == (4000, 8000) and info["peak"] == pytest.approx(float(audio.abs().max()))
    module.write_text("def get_custom_metadata(info, audio):\n    return {'audio': audio}\n")
    with pytest.raises(DataError, match=r"metadata 'audio' is Tensor, which JSON cannot hold .*let the metadata module run in training"):
        pack(folder, str(tmp_path / "other"), PackOptions(custom_metadata_module=module))


def write_latents(folder, count=6):
    for number in range(count):
        file = folder / str(number % 2) / f"{number:012}.npy"
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, np.full((4, 6), number, dtype=np.float32))
        metadata = {"prompt": f"{number}", "padding_mask": [1] * 6, "seconds_total": 1}
        file.with_suffix(".json").write_text(json.dumps(metadata))
    return folder


def test_latents_that_cannot_be_read_are_left_out_and_named(tmp_path, caplog):
    folder = write_latents(tmp_path / "latents")
    (folder / "0" / "000000000000.npy").write_bytes(b"odd")
    (folder / "1" / "000000000001.json").write_text("[]")
    (folder / "0" / "000000000002.json").write_text("{")
    result = pack(folder, str(tmp_path / "out"), PackOptions(shard_samples=2))
    assert (result.num_samples, result.num_left_out) == (3, 3)
    for message in ("0000.npy: cannot be read as latents", "0001.json: holds list, not an object", "0002.json: not valid JSON"):
        assert caplog.text.count(message) == 1, message


def test_only_the_latents_of_a_list_are_packed(tmp_path):
    folder = write_latents(tmp_path / "latents")
    (folder / "filelist.txt").write_text("0/000000000002.npy\n1/000000000003.npy\n0/000000000002.npy\n")
    (tmp_path / "mine.txt").write_text("1/000000000005.npy\n")
    for name, options, chosen in (("out", PackOptions(), {"2", "3"}), ("other", PackOptions(filelist_path=tmp_path / "mine.txt"), {"5"})):
        assert pack(folder, str(tmp_path / name), options).num_samples == len(chosen)
        config = {"dataset_type": "wds", "datasets": [{"id": "a", "path": str(tmp_path / name)}], "pre_encoded": True}
        dataset = create_dataset_from_config(config, 4000, 8000, 1)
        assert {dataset[index][1]["prompt"] for index in range(len(chosen))} == chosen, "as a dataset of the folder has it"
    (tmp_path / "mine.txt").write_text("gone.npy\n")
    with pytest.raises(
        DataError, match=r"mine\.txt: names 1 of 1 files that do not exist \(.*gone\.npy\); its lines are paths relative to"
    ):
        pack(folder, str(tmp_path / "third"), PackOptions(filelist_path=tmp_path / "mine.txt"))


def test_latents_are_packed_with_what_belongs_to_all_of_them(tmp_path):
    write_latents(tmp_path / "latents")
    np.save(tmp_path / "latents" / "silence.npy", np.full((1, 4, 8), -1, dtype=np.float32))
    (tmp_path / "latents" / "details.json").write_text("{}")
    out = tmp_path / "out"
    assert pack(tmp_path / "latents", str(out), PackOptions(shard_samples=4)).num_samples == 6
    assert {"details.json", "silence.npy", "00000.tar", "00001.tar"} <= {path.name for path in out.iterdir()}
    config = {"dataset_type": "wds", "datasets": [{"id": "a", "path": str(out)}], "resampled_shards": False, "pre_encoded": True}
    loader = create_dataloader_from_config({**config, "latent_crop_length": 8}, 6, 4000, 8000, 1, num_workers=0)
    ((latents, infos),) = loader
    for item, info in zip(latents, infos, strict=True):
        assert item[:, :6].eq(int(info["prompt"])).all() and item[:, 6:].eq(-1).all(), "what follows is encoded silence"
        assert info["padding_mask"].equal(torch.tensor([1.0] * 6 + [0.0] * 2))
    (tmp_path / "latents" / "0" / "000000000002.json").unlink()
    with pytest.raises(DataError, match=r"000000000002.json: no such file; 1 of 6 latents have none"):
        pack(tmp_path / "latents", str(tmp_path / "other"))


def test_only_the_files_of_a_list_are_packed(folder, tmp_path):
    (tmp_path / "val.txt").write_text("03.wav\ndeep.er/a b.v2.wav\ngone.wav\n")
    result = pack(folder, str(tmp_path / "out"), PackOptions(filelist_path=tmp_path / "val.txt"))
    assert (result.num_samples, result.num_left_out) == (2, 1)
    assert set(samples(tmp_path / "out")) == {"03.wav", "deep.er/a b.v2.wav"}
    (folder / "filelist.txt").write_text("04.wav\n")
    pack(folder, str(tmp_path / "other"))
    assert set(samples(tmp_path / "other")) == {"04.wav"}, "as a dataset of the folder has it"


def test_progress_counts_files_and_bytes(folder, tmp_path):
    told = []
    pack(folder, str(tmp_path / "out"), SMALL, on_progress=told.append)
    assert [progress.num_done for progress in told] == list(range(1, 13)) and all(progress.num_files == 12 for progress in told)
    assert told[-1].num_bytes == sum(path.stat().st_size for path in folder.rglob("*.wav"))
    told.clear()
    pack(folder, str(tmp_path / "out"), SMALL, on_progress=told.append)
    assert not told, "nothing is left to do"


def test_a_file_counts_when_it_is_packed_and_the_last_of_a_shard_when_that_is_there(folder, tmp_path, monkeypatch):
    packed, told, real = [], [], AudioSource.content
    monkeypatch.setattr(AudioSource, "content", lambda source, path: (packed.append(path), real(source, path))[1])

    def tell(progress):
        told.append((progress.num_done, len(packed), len(list((tmp_path / "out").glob("*.idx")))))

    pack(folder, str(tmp_path / "out"), PackOptions(shard_samples=4, num_jobs=1), on_progress=tell)
    assert told[:5] == [(1, 1, 0), (2, 2, 0), (3, 3, 0), (4, 4, 1), (5, 5, 1)] and told[-1] == (12, 12, 3)


def test_a_link_to_nowhere_is_left_out(folder, tmp_path, caplog):
    (folder / "link.wav").symlink_to(folder / "nowhere.wav")
    assert pack(folder, str(tmp_path / "out"), SMALL).num_left_out == 1 and "link.wav" in caplog.text


def test_if_nothing_can_be_used_that_is_an_error(tmp_path, shared):
    (tmp_path / "bad").mkdir()
    for name in ("derived/html_error_page.mp3", "mutagen/emptyfile.mp3"):
        shutil.copy(shared / "data/bad-audio" / name, tmp_path / "bad")
    with pytest.raises(DataError, match=r"bad: none of its 2 files can be used, as the messages above say; nothing is packed"):
        pack(tmp_path / "bad", str(tmp_path / "out"))
    assert not contents(tmp_path / "out")
    with pytest.raises(DataError, match=r"none of its 2 files can be used"):
        pack(tmp_path / "bad", "memory://bad")
    assert not Storage("memory://bad").find("memory://bad")


class _FlakyDisk:
    """`AudioSource.content` while a disk fails."""

    def __init__(self, monkeypatch):
        self.failing, self.asked, real = set[str](), list[str](), AudioSource.content

        def content(source, path):
            self.asked.append(path.name)
            if path.name in self.failing:
                raise AudioError(f"{path}: cannot be read: Input/output error")
            return real(source, path)

        monkeypatch.setattr(AudioSource, "content", content)


def test_what_failed_for_a_moment_is_packed_by_the_next_run(folder, tmp_path, monkeypatch):
    whole = tmp_path / "whole"
    pack(folder, str(whole), SMALL)
    disk = _FlakyDisk(monkeypatch)
    disk.failing = {path.name for path in folder.rglob("*.wav")}
    with pytest.raises(DataError, match=r"none of its 12 files can be used"):
        pack(folder, str(tmp_path / "out"), SMALL)
    disk.failing = {"02.wav", "05.wav"}
    assert pack(folder, str(tmp_path / "out"), SMALL).num_left_out == 2, "that nothing could be packed is forgotten"
    disk.asked.clear()
    assert pack(folder, str(tmp_path / "out"), SMALL).num_kept == 4
    assert sorted(disk.asked) == ["02.wav", "05.wav"], "only they are asked for again"
    disk.failing = set()
    result = pack(folder, str(tmp_path / "out"), SMALL)
    assert 2 <= result.num_kept < 4 and result.num_left_out == 0
    assert contents(tmp_path / "out") == contents(whole)


def test_a_shard_without_samples_is_not_finished(folder, tmp_path):
    """As runs left it that did not say which files they could not read."""
    options = PackOptions(shard_samples=4)
    pack(folder, str(tmp_path / "whole"), options)
    shutil.copytree(tmp_path / "whole", tmp_path / "out")
    with tarfile.open(tmp_path / "out" / "00001.tar", "w"):
        pass
    (tmp_path / "out" / "00001.idx").write_text(format_index([]))
    (tmp_path / "out" / "00001.jsonl").write_text("")
    assert pack(folder, str(tmp_path / "out"), options).num_kept == 2
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_shard_that_nothing_says_the_lengths_of_is_packed_again(folder, tmp_path):
    options = PackOptions(shard_samples=4)
    pack(folder, str(tmp_path / "out"), options)
    before = contents(tmp_path / "out")
    (tmp_path / "out" / "00001.jsonl").unlink()
    assert pack(folder, str(tmp_path / "out"), options).num_kept == 2
    assert contents(tmp_path / "out") == before


def test_nothing_to_pack_is_an_error(tmp_path):
    (tmp_path / "x.wav").touch()
    with pytest.raises(DataError, match=r"x\.wav: is a file, not a folder; expected a folder of audio files, or of latents"):
        pack(tmp_path / "x.wav", str(tmp_path / "out"))
    with pytest.raises(DataError, match=r"absent: no such folder"):
        pack(tmp_path / "absent", str(tmp_path / "out"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: holds no audio files and no latents, so there is nothing to pack"):
        pack(tmp_path / "empty", str(tmp_path / "out"))


def test_the_pack_of_a_memory_store_is_read_from_there(folder):
    """Another kind of storage than folders, through the same doors."""
    result = pack(folder, "memory://music", SMALL)
    assert result.num_samples == 12
    assert len(samples("memory://music")) == 12
    assert pack(folder, "memory://music", SMALL).num_kept == 4
