import re
import struct

import numpy as np
import pytest
import soundfile

from stable_audio_tools.audio import load, probe
from stable_audio_tools.audio.headers import flac_holds_more, iff_shortage, is_broken_lossy_promise, ogg_end, xing_frames
from stable_audio_tools.errors import AudioError


@pytest.fixture
def cut(tmp_path, encoded):
    """A function that keeps a fraction of the bytes of an encoded file."""

    def cut(name, fraction):
        path = tmp_path / name
        path.write_bytes(encoded[name].read_bytes()[: round(encoded[name].stat().st_size * fraction)])
        return path

    return cut


@pytest.mark.parametrize("name", ["pcm16.wav", "float.wav", "pcm16.aiff", "pcm24.flac", "cbr.mp3", "vbr.mp3", "aac.aac"])
def test_honest_headers_pass(encoded, name):
    assert probe(encoded[name]).num_frames > 0


@pytest.mark.parametrize("name", ["pcm16.wav", "float.wav", "pcm16.aiff", "pcm24.flac", "cbr.mp3", "vbr.mp3"])
def test_half_a_file_breaks_its_promise(encoded, cut, name):
    whole = probe(encoded[name]).num_frames
    with pytest.raises(AudioError) as caught:
        load(cut(name, 0.5))
    match = re.search(rf"{name}: header promises (\d+) frames, the file holds (\d+).*; download or export it again", str(caught.value))
    promised, held = map(int, match.groups())
    assert promised == pytest.approx(whole, rel=0.01)
    assert held == pytest.approx(whole / 2, rel=0.1)


@pytest.mark.parametrize("name", ["cbr.mp3", "vbr.mp3"])
def test_a_lossy_file_may_miss_a_little(cut, name):
    assert load(cut(name, 0.995)).samples.shape[-1] > 0


def test_a_span_before_the_cut_still_loads(cut, encoded):
    for name in ("pcm24.flac", "cbr.mp3"):
        span = load(cut(name, 0.5), start=1000, num_frames=500).samples
        assert span.equal(load(encoded[name], start=1000, num_frames=500).samples)


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFF000])
def test_wav_headers_of_streams_promise_nothing(tmp_path, size):
    soundfile.write(tmp_path / "x.wav", np.zeros(1000), 44100)
    data = bytearray((tmp_path / "x.wav").read_bytes())
    data[40:44] = struct.pack("<I", size)
    (tmp_path / "x.wav").write_bytes(data)
    assert iff_shortage(str(tmp_path / "x.wav")) == 1
    assert load(tmp_path / "x.wav").samples.shape == (1, 1000)


def test_header_bytes_counted_as_audio_are_forgiven(tmp_path):
    soundfile.write(tmp_path / "x.wav", np.zeros(1000), 44100)
    data = bytearray((tmp_path / "x.wav").read_bytes())
    data[40:44] = struct.pack("<I", 2000 + 44)
    (tmp_path / "x.wav").write_bytes(data)
    assert load(tmp_path / "x.wav").samples.shape == (1, 1000)


def test_a_file_without_a_data_chunk_promises_nothing(tmp_path):
    (tmp_path / "x.wav").write_bytes(b"RIFF\x04\0\0\0WAVE")
    assert iff_shortage(str(tmp_path / "x.wav")) == 1


def test_pictures_in_a_flac_are_not_audio(tmp_path, encoded):
    """A cover of 2 MB must not look like more audio than the 8 s that the header promises."""
    data = encoded["pcm24.flac"].read_bytes()
    picture = bytes([6]) + (2_000_000).to_bytes(3, "big") + bytes(2_000_000)
    (tmp_path / "x.flac").write_bytes(data[:42] + picture + data[42:])
    assert load(tmp_path / "x.flac").samples.equal(load(encoded["pcm24.flac"]).samples)


def test_flac_noise_fits_its_promise(tmp_path):
    noise = np.random.default_rng(0).integers(-32768, 32767, 50_000, dtype=np.int16)
    soundfile.write(tmp_path / "x.flac", noise, 44100)
    assert load(tmp_path / "x.flac").samples.shape == (1, 50_000)
    assert flac_holds_more(str(tmp_path / "x.flac"), num_frames=30_000, num_channels=1, bytes_per_sample=2)


def test_xing_frames_are_read_for_every_kind_of_header(tmp_path):
    for offset, tag, field in ((36, b"Info", 8), (21, b"Xing", 8), (13, b"Xing", 8), (36, b"VBRI", 14)):
        frame = bytearray(b"\xff\xfb" + bytes(98))
        frame[offset : offset + 4] = tag
        frame[offset + 7] = 1
        frame[offset + field : offset + field + 4] = (1234).to_bytes(4, "big")
        (tmp_path / "x.mp3").write_bytes(b"ID3 tag with Xing in it" + frame + b"\xff\xfb packet")
        assert xing_frames(str(tmp_path / "x.mp3"), position=123, num_bytes=9) == 1234, tag
    (tmp_path / "x.mp3").write_bytes(b"\xff\xfb" + bytes(50) + b"Xing" + bytes(50))
    assert xing_frames(str(tmp_path / "x.mp3"), position=0, num_bytes=106) is None


def test_joined_ogg_streams_are_told_from_one(encoded, tmp_path):
    assert not ogg_end(str(encoded["vorbis.ogg"])).is_chained
    assert 0 < ogg_end(str(encoded["vorbis.ogg"])).last_page_start < probe(encoded["vorbis.ogg"]).num_frames
    soundfile.write(tmp_path / "other.ogg", np.zeros(30_000), 44100)
    (tmp_path / "x.ogg").write_bytes(encoded["vorbis.ogg"].read_bytes() + (tmp_path / "other.ogg").read_bytes())
    for read in (load, probe):
        with pytest.raises(AudioError, match=r"x\.ogg: holds several Ogg streams joined end to end, expected one; split or re-encode it"):
            read(tmp_path / "x.ogg")


def test_the_lossy_tolerance_is_four_mp3_frames_and_one_percent():
    assert not is_broken_lossy_promise(4608, 0)
    assert is_broken_lossy_promise(4609 + 46, 0)
    assert not is_broken_lossy_promise(1000, 2000)
