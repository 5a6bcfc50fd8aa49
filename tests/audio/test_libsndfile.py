import random

import numpy as np
import pytest
import soundfile
import torch

from stable_audio_tools.audio import load, probe
from stable_audio_tools.audio.libsndfile import SndFile
from stable_audio_tools.errors import AudioError


@pytest.mark.parametrize("seed", range(6))
def test_vorbis_spans_in_the_last_page_are_in_place(tmp_path, seed):
    """libvorbisfile misplaces them by up to a block: its position counts back from the end of the page, which is cut to length."""
    rng = random.Random(seed)
    num_frames = rng.randrange(3000, 100_000)
    audio = np.random.default_rng(seed).uniform(-0.5, 0.5, (num_frames, 1 + seed % 2))
    soundfile.write(tmp_path / "x.ogg", audio, rng.choice((16000, 22050, 44100, 48000)))
    whole = load(tmp_path / "x.ogg").samples
    for back in (1, 2, 50, 130, 700, 1300, 2500, 2999):
        span = load(tmp_path / "x.ogg", start=num_frames - back, num_frames=600).samples
        assert torch.equal(span, whole[:, num_frames - back :][:, :600]), back


def test_a_flac_of_unknown_length_is_left_to_ffmpeg(tmp_path, encoded):
    """Encoders that write to a pipe leave the number of samples at 0."""
    data = bytearray(encoded["pcm24.flac"].read_bytes())
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    (tmp_path / "x.flac").write_bytes(data)
    with pytest.raises(soundfile.SoundFileError, match="does not state a length"):
        SndFile(str(tmp_path / "x.flac"))
    assert probe(tmp_path / "x.flac").num_frames == probe(encoded["pcm24.flac"]).num_frames
    assert load(tmp_path / "x.flac").samples.equal(load(encoded["pcm24.flac"]).samples)


def test_blocks_are_joined_without_a_seam(tmp_path, monkeypatch):
    audio = np.random.default_rng(0).uniform(-0.5, 0.5, (10_000, 3)).astype(np.float32)
    soundfile.write(tmp_path / "x.wav", audio, 44100, subtype="FLOAT")
    monkeypatch.setattr("stable_audio_tools.audio.libsndfile._BLOCK_FRAMES", 777)
    with SndFile(str(tmp_path / "x.wav")) as file:
        np.testing.assert_array_equal(file.read(0, None), audio.T)
        np.testing.assert_array_equal(file.read(5, 4000), audio.T[:, 5:4005])
        assert file.read(10_000, 5).shape == (3, 0)


def test_a_file_that_ends_early_without_an_error_is_refused(encoded, monkeypatch):
    monkeypatch.setattr(soundfile.SoundFile, "read", lambda self, frames, **options: np.zeros((0, 2), np.float32))
    with SndFile(str(encoded["pcm16.wav"])) as file:
        with pytest.raises(AudioError, match=r"pcm16\.wav: header promises 366030 frames, the file holds 100; download"):
            file.read(100, 10)
        with pytest.raises(soundfile.SoundFileError, match="last frame cannot be read"):
            file.count_frames()
