from fractions import Fraction

import av
import numpy as np
import pytest
import torch

from stable_audio_tools.audio import load, probe
from stable_audio_tools.audio.ffmpeg import FfmpegFile, _CannotSeekError, _Clock
from stable_audio_tools.errors import AudioError


def test_lossless_codecs_agree_with_libsndfile_to_the_bit(encoded, encoder, tmp_path):
    expected = load(encoded["pcm16.wav"]).samples
    encoder(tmp_path / "x.mov", "pcm_s16le", expected.T.numpy(), 44100)
    assert load(tmp_path / "x.mov").samples.equal(expected)
    for name in ("pcm16.wav", "float.wav", "pcm24.flac", "pcm16.aiff"):
        with FfmpegFile(str(encoded[name])) as file:
            np.testing.assert_array_equal(file.read(0, None), load(encoded[name]).samples.numpy())


@pytest.mark.parametrize("codec", ["pcm_u8", "pcm_s16le", "pcm_s24le", "pcm_s32le", "pcm_f32le", "pcm_f64le"])
def test_every_sample_format_has_its_full_scale(encoder, tmp_path, codec):
    audio = np.linspace(-1, 0.99, 4800, dtype=np.float32)[:, None]
    encoder(tmp_path / "x.mkv", codec, audio, 48000)
    step = {"pcm_u8": 2**-7}.get(codec, 2**-15)
    np.testing.assert_allclose(load(tmp_path / "x.mkv").samples[0], audio[:, 0], atol=step)


def test_one_open_file_can_be_read_again_and_counted_in_any_order(encoded):
    for name in ("cbr.mp3", "aac.m4a", "opus.webm", "vorbis.webm"):
        with FfmpegFile(str(encoded[name])) as file:
            first = file.read(200_000, 1000)
            num_frames = file.count_frames()
            np.testing.assert_array_equal(file.read(200_000, 1000), first)
            assert file.read(0, None).shape[1] == num_frames == file.count_frames()


def test_gaps_in_the_timestamps_become_silence(encoder, tmp_path):
    audio = np.random.default_rng(0).uniform(-0.5, 0.5, (48000 * 8, 1)).astype(np.float32)
    encoder(tmp_path / "x.mka", "libopus", audio, 48000, gap_at=4)
    whole = load(tmp_path / "x.mka").samples
    assert whole.shape[-1] == probe(tmp_path / "x.mka").num_frames == pytest.approx(8.5 * 48000, abs=960)
    silence = (whole[0].abs() < 1e-6).nonzero()[:, 0]
    assert len(silence) > 0.4 * 48000
    assert 3.9 * 48000 < silence[len(silence) // 2] < 4.6 * 48000
    assert torch.equal(load(tmp_path / "x.mka", start=300_000, num_frames=5000).samples, whole[:, 300_000:305_000])


def test_timestamps_that_jump_far_are_refused(encoder, tmp_path, monkeypatch):
    encoder(tmp_path / "x.mka", "libopus", np.zeros((48000 * 4, 1), np.float32), 48000, gap_at=2)
    monkeypatch.setattr("stable_audio_tools.audio.ffmpeg._MAX_GAP_SECONDS", 0.2)
    with pytest.raises(AudioError, match=r"x\.mka: timestamps jump by 0 s at 2\.\d s, allowed are 0\.2 s; re-encode it"):
        load(tmp_path / "x.mka")


@pytest.mark.parametrize("num_bytes", [1, 30, 3000])
def test_damage_inside_a_flac_is_found(encoded, tmp_path, num_bytes):
    data = bytearray(encoded["pcm24.flac"].read_bytes())
    middle = len(data) // 2
    data[middle : middle + num_bytes] = bytes(byte ^ 0x55 for byte in data[middle : middle + num_bytes])
    (tmp_path / "x.flac").write_bytes(data)
    with pytest.raises(AudioError, match=r"x\.flac: .*holds .*damaged data.*; download or export it again"):
        load(tmp_path / "x.flac")
    assert load(tmp_path / "x.flac", num_frames=10_000).samples.equal(load(encoded["pcm24.flac"], num_frames=10_000).samples)


def test_damage_inside_an_mp3_is_found_and_junk_around_it_forgiven(encoded, tmp_path):
    data = encoded["cbr.mp3"].read_bytes()
    whole = load(encoded["cbr.mp3"]).samples
    rubbish = np.random.default_rng(0).bytes(3000)
    (tmp_path / "tail.mp3").write_bytes(data + b"TAG" + bytes(125))
    assert load(tmp_path / "tail.mp3").samples.equal(whole)
    (tmp_path / "rubbish.mp3").write_bytes(data + rubbish)
    assert load(tmp_path / "rubbish.mp3").samples.equal(whole)
    (tmp_path / "middle.mp3").write_bytes(data[:60_000] + rubbish + data[63_000:])
    with pytest.raises(AudioError, match=r"middle\.mp3: header promises \d+ frames, the file holds \d+ before damaged data"):
        load(tmp_path / "middle.mp3")


def test_files_without_sound_are_refused(tmp_path):
    with av.open(str(tmp_path / "x.mp4"), "w") as output:
        stream = output.add_stream("mpeg4", rate=25)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        picture = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
        picture.pts, picture.time_base = 0, Fraction(1, 25)
        output.mux(stream.encode(picture))
        output.mux(stream.encode(None))
    with pytest.raises(AudioError, match=r"x\.mp4: holds no audio stream; expected a file with sound"):
        load(tmp_path / "x.mp4")


def test_unknown_codecs_are_refused(encoded, tmp_path):
    data = bytearray(encoded["pcm16.wav"].read_bytes())
    data[20:22] = b"\x34\x12"
    (tmp_path / "x.wav").write_bytes(data)
    with pytest.raises(AudioError, match=r"x\.wav: is encoded in a way ffmpeg has no decoder for; convert it to WAV or FLAC"):
        load(tmp_path / "x.wav")


@pytest.mark.parametrize(
    "playlist", ["#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:8,\n{}\n#EXT-X-ENDLIST\n", "ffconcat version 1.0\nfile '{}'\n"]
)
def test_playlists_are_not_followed(encoded, tmp_path, playlist):
    (tmp_path / "x.mp3").write_text(playlist.format(encoded["aac.aac"]))
    with pytest.raises(AudioError, match=r"x\.mp3: is not audio that can be decoded"):
        load(tmp_path / "x.mp3")


def test_speech_opus_is_not_entered_in_the_middle(encoded):
    """Its decoder feeds back: after a seek, samples differ from the full decode by 2e-5 for many seconds."""
    with FfmpegFile(str(encoded["speech.opus"])) as file:
        assert file._read_after_seek(100_000, 200_000, 201_000) is None
    with FfmpegFile(str(encoded["music.opus"])) as file:
        assert file._read_after_seek(100_000, 200_000, 201_000) is not None


def test_a_seek_that_lands_too_late_is_noticed(encoded):
    with FfmpegFile(str(encoded["cbr.mp3"])) as file:
        assert file._read_after_seek(250_000, 200_000, 201_000) is None
        with pytest.raises(_CannotSeekError):
            next(file._placed(iter(()), 200_000, 201_000, expected=None))


def test_a_clock_needs_timestamps(encoded):
    with FfmpegFile(str(encoded["cbr.mp3"])) as file:
        assert _Clock.of(file._stream.time_base, file._peeked) == file._clock
        assert _Clock.of(None, file._peeked) is None
    with FfmpegFile(str(encoded["aac.mkv"])) as file:  # 1 ms is 44.1 samples
        assert file._clock is None


def test_a_container_that_breaks_off_is_refused(encoded, monkeypatch):
    class Broken:
        format = None

        def demux(self, stream):
            raise av.error.InvalidDataError(1, "broken container")

    with FfmpegFile(str(encoded["aac.aac"])) as file:
        container = file._container
        monkeypatch.setattr(Broken, "format", container.format)
        file._container = Broken()
        with pytest.raises(AudioError, match=r"aac\.aac: holds damaged data after 2048 frames \(broken container\); download"):
            next(file._demux())
        file._container = container
