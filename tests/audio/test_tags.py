import struct

import pytest
import soundfile
import torch

from stable_audio_tools.audio import probe, read_metadata, save
from stable_audio_tools.errors import AudioError

SILENCE = torch.zeros(1, 1001)  # odd, so that chunks need padding


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg"])
@pytest.mark.parametrize(
    "metadata",
    [
        {"prompt": "dub techno", "seed": "42"},
        {"prompt": '\u97f3\u697d \U0001f3a7 \u00e9 "quoted"\n\ttab \\ \0 \ud800', "a key": ""},
        {"title": "x" * 99_999},
        {"prompt": ""},
    ],
    ids=["plain", "any unicode", "long", "empty value"],
)
def test_metadata_survives(tmp_path, metadata, suffix):
    save(tmp_path / f"x{suffix}", SILENCE, 44100, metadata=metadata)
    assert read_metadata(tmp_path / f"x{suffix}") == metadata
    assert probe(tmp_path / f"x{suffix}").num_frames == 1001


def test_players_see_a_title_and_the_software(tmp_path):
    for suffix in (".wav", ".flac"):
        save(tmp_path / f"x{suffix}", SILENCE, 44100, metadata={"prompt": "\u00e9tude", "seed": "1"})
        with soundfile.SoundFile(tmp_path / f"x{suffix}") as file:
            assert file.title == "\u00e9tude"
            assert file.software.startswith("stable-audio-tools")
            assert file.comment == '{"prompt": "\\u00e9tude", "seed": "1"}'


def test_no_metadata_reads_as_none(tmp_path):
    for suffix in (".wav", ".flac", ".ogg"):
        save(tmp_path / f"x{suffix}", SILENCE, 44100)
        assert read_metadata(tmp_path / f"x{suffix}") == {}


def test_the_riff_sizes_stay_right(tmp_path):
    save(tmp_path / "x.wav", SILENCE, 44100, metadata={"a": "b"})
    data = (tmp_path / "x.wav").read_bytes()
    assert struct.unpack("<I", data[4:8])[0] == len(data) - 8
    at, names = 12, []
    while at < len(data):
        name, size = struct.unpack_from("<4sI", data, at)
        names.append(name)
        at += 8 + size + size % 2
    assert at == len(data)
    assert names == [b"fmt ", b"data", b"LIST"]


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_tags_of_other_programs_are_read_as_they_are(tmp_path, suffix):
    with soundfile.SoundFile(tmp_path / f"x{suffix}", "w", 44100, 1) as file:
        file.title, file.artist, file.comment = "a title", "someone", "{not json"
        file.write(SILENCE[0].numpy())
    tags = read_metadata(tmp_path / f"x{suffix}")
    assert {name: tags[name] for name in ("title", "artist", "comment")} == {
        "title": "a title",
        "artist": "someone",
        "comment": "{not json",
    }


def test_a_comment_changed_by_another_program_is_read_as_it_is(tmp_path):
    save(tmp_path / "x.wav", SILENCE, 44100, metadata={"a": "b"})
    data = (tmp_path / "x.wav").read_bytes()
    (tmp_path / "x.wav").write_bytes(data.replace(b'{"a": "b"}', b"hand-edit!"))
    assert read_metadata(tmp_path / "x.wav") == {"software": "stable-audio-tools", "comment": "hand-edit!"}


def test_metadata_that_is_not_text_is_refused(tmp_path):
    with pytest.raises(AudioError, match=r"x\.wav: metadata 'seed': expected strings, got int; use str\(\) or json\.dumps\(\)"):
        save(tmp_path / "x.wav", SILENCE, 44100, metadata={"seed": 1})


def test_endless_metadata_is_refused(tmp_path):
    with pytest.raises(AudioError, match=r"x\.wav: metadata takes 1000009 bytes, allowed are 1000000; keep it in a file of its own"):
        save(tmp_path / "x.wav", SILENCE, 44100, metadata={"a": "b" * 1_000_000})
    assert not list(tmp_path.iterdir())


def test_files_without_tags_that_can_be_read_are_refused(tmp_path):
    (tmp_path / "x.txt").write_text("hello")
    for name in ("x.txt", "none.wav"):
        with pytest.raises(AudioError, match=rf"{name}: tags cannot be read \(.*\); expected a WAV, FLAC or OGG file"):
            read_metadata(tmp_path / name)
