"""Where a demo's clips come from: synthesised, or chosen from a folder; and how they become a batch."""

from __future__ import annotations

import csv
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from stable_audio_tools.audio import load, save
from stable_audio_tools.demo.captions import all_captions
from stable_audio_tools.demo.clips import CAPTIONS_PER_CLIP, Clip, chosen, load_clips, read_clip_set, synthesised
from stable_audio_tools.demo.synth import CLASSES, NUM_SAMPLES, SAMPLE_RATE
from stable_audio_tools.errors import AudioError, ConfigError, DataError


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(logging.getLogger("stable_audio_tools"), "propagate", True)
    return caplog


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return synthesised(tmp_path_factory.mktemp("sounds"), num_train=2, num_held_out=1, seed=0)


def test_synthesised_clips(made: Any, tmp_path: Path) -> None:
    assert made.classes == list(CLASSES)
    assert made.source == f"{3 * len(CLASSES)} sounds of {len(CLASSES)} classes, synthesised by this program"
    train, held_out = made.select(held_out=False), made.select(held_out=True)
    assert (len(train), len(held_out)) == (2 * len(CLASSES), len(CLASSES))
    assert not {clip.path for clip in train} & {clip.path for clip in held_out}
    for clip in made.clips:
        assert load(clip.path).samples.shape == (1, NUM_SAMPLES)
        assert set(clip.captions) <= all_captions(clip.name)
        assert 3 <= len(clip.captions) <= CAPTIONS_PER_CLIP
        assert len(set(clip.captions)) == len(clip.captions)
    captions = {text for clip in made.clips for text in clip.captions}
    assert not captions & {prompt for prompts in made.prompts.values() for prompt in prompts}


def test_the_seed_decides(made: Any, tmp_path: Path) -> None:
    def content(clips: Any) -> list[Any]:
        return [(clip.name, clip.captions, load(clip.path).samples.sum().item()) for clip in clips.clips]

    assert content(synthesised(tmp_path / "a", num_train=2, num_held_out=1, seed=0)) == content(made)
    assert content(synthesised(tmp_path / "b", num_train=2, num_held_out=1, seed=1)) != content(made)


def test_descriptions_are_kept_in_a_file(made: Any, tmp_path: Path) -> None:
    made.write(tmp_path / "deep" / "clips.json")
    assert read_clip_set(tmp_path / "deep" / "clips.json") == made
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["clips.json"]


# ---- a real folder ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, write_folder: Any) -> Path:
    return write_folder(tmp_path_factory.mktemp("real"))


def test_files_are_chosen_by_their_captions(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    clips = chosen(folder, None, "kick|bass drum,bell", seed=0)
    assert clips.classes == ["kick", "bell"]
    assert (len(clips.select(held_out=False)), len(clips.select(held_out=True))) == (12, 4)
    assert clips.source == f"16 files of 2 classes from {folder}"
    for clip in clips.clips:
        assert Path(clip.path).parent.name == clip.name
        assert clip.captions[0].startswith("a kick drum, take" if clip.name == "kick" else "a church bell, take")
        assert clip.name in clip.captions
    assert clips.prompts["bell"][0] == "the sound of a bell"
    captions = {text for clip in clips.clips for text in clip.captions}
    assert not captions & {prompt for prompts in clips.prompts.values() for prompt in prompts}
    assert chosen(folder, folder / "captions.csv", "kick|bass drum,bell", seed=0) == clips
    assert chosen(folder, None, "kick|bass drum,bell", seed=1) != clips


def test_captions_that_fit_no_file_are_passed_over(folder: Path, tmp_path: Path) -> None:
    table = tmp_path / "c.csv"
    shutil.copy(folder / "captions.csv", table)
    with table.open("a", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerow(["gone.wav", "a kick"])
    assert len(chosen(folder, table, "kick,bell", seed=0).clips) == 16


def test_wrong_folders(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    table = tmp_path / "t.csv"
    with pytest.raises(ConfigError, match="nowhere: no such folder"):
        chosen(tmp_path / "nowhere", None, "a,b", seed=0)
    with pytest.raises(ConfigError, match=r"captions\.csv: is a file, not a folder"):
        chosen(folder / "captions.csv", None, "a,b", seed=0)
    with pytest.raises(ConfigError, match=r"empty/captions\.csv: no such file; --captions names a CSV table"):
        chosen(tmp_path / "empty", None, "a,b", seed=0)
    with pytest.raises(ConfigError, match=r"captions\.csv: none of its 24 paths is a file below .*empty"):
        chosen(tmp_path / "empty", folder / "captions.csv", "a,b", seed=0)
    table.write_text("file,text\na,b\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"t\.csv: needs a header with the columns 'path' and 'caption', got: file, text"):
        chosen(folder, table, "a,b", seed=0)
    with pytest.raises(ConfigError, match="class 'rain' matches 0 of 24 captions, at least 8 are needed"):
        chosen(folder, None, "kick,rain", seed=0)


# ---- batches -----------------------------------------------------------------------------------------------------------------------


def clip(path: Path, name: str = "x") -> Clip:
    return Clip(str(path), name, ("x",), is_held_out=False)


def test_clips_of_any_kind_become_one_batch(tmp_path: Path) -> None:
    ramp = torch.linspace(0, 0.5, 44100)
    save(tmp_path / "long.wav", torch.stack([ramp, ramp]), 44100)
    save(tmp_path / "short.wav", ramp[:1000], SAMPLE_RATE)
    good, batch = load_clips([clip(tmp_path / "long.wav"), clip(tmp_path / "short.wav")], num_samples=8000)
    assert [Path(item.path).stem for item in good] == ["long", "short"]
    assert batch.shape == (2, 1, 8000)
    torch.testing.assert_close(batch.abs().amax(dim=(1, 2)), torch.full((2,), 0.8))
    torch.testing.assert_close(batch[0, 0, 100:6800], batch[0, 0, 6800] * torch.arange(100, 6800) / 6800, atol=1e-3, rtol=0)
    assert float(batch[0, 0, 7000]) > 0.7 > 0.4 > float(batch[0, 0, 7700]) > float(batch[0, 0, 7999]) == 0  # fades out where it is cut
    assert float(batch[1, 0, 1000:].abs().max()) == 0


def test_what_cannot_be_used_is_named_and_left_out(tmp_path: Path, warnings: pytest.LogCaptureFixture) -> None:
    save(tmp_path / "good.wav", torch.full((1, 100), 0.5), SAMPLE_RATE)
    save(tmp_path / "silent.wav", torch.zeros(1, 100), SAMPLE_RATE)
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    names = ("broken.wav", "good.wav", "silent.wav")
    good, batch = load_clips([clip(tmp_path / name) for name in names], num_samples=50)
    assert [Path(item.path).name for item in good] == ["good.wav"]
    assert batch.shape == (1, 1, 50)
    assert "broken.wav" in warnings.text
    assert "silent.wav: silent" in warnings.text
    assert "skipped 2 of 3 clips" in warnings.text


def test_a_class_of_which_nothing_is_left(tmp_path: Path) -> None:
    save(tmp_path / "good.wav", torch.full((1, 100), 0.5), SAMPLE_RATE)
    save(tmp_path / "silent.wav", torch.zeros(1, 100), SAMPLE_RATE)
    with pytest.raises(AudioError, match=r"no clip of 'rain' can be used; the first that failed: .*silent\.wav: silent"):
        load_clips([clip(tmp_path / "good.wav", "kick"), clip(tmp_path / "silent.wav", "rain")])
    with pytest.raises(AudioError, match=r"none of 1 clips can be used: .*silent\.wav: silent"):
        load_clips([clip(tmp_path / "silent.wav")])
    with pytest.raises(AudioError, match="none of 0 clips can be used: there are none"):
        load_clips([])
