import logging
import math
import os
import random
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from stable_audio_tools.audio import AUDIO_EXTENSIONS, load, probe, read_metadata, resample, save
from stable_audio_tools.errors import AudioError


def spans(num_frames, rng):
    """(start, length) pairs: ends, single frames, and random places, of which some run past the end."""
    fixed = [(0, 1), (0, 3000), (1, 777), (num_frames - 1, 1), (num_frames - 1, 100), (num_frames - 1500, 5000)]
    return fixed + [(rng.randrange(num_frames), rng.choice((1, 500, 20000))) for _ in range(10)]


def test_a_span_is_a_slice_of_the_whole(every_format):
    whole, rate = load(every_format)
    for start, length in spans(whole.shape[-1], random.Random(0)):
        part = load(every_format, start=start, num_frames=length)
        assert part.sample_rate == rate
        assert torch.equal(part.samples, whole[:, start : start + length]), (start, length)


@pytest.mark.parametrize("rate", [16000, 44101, 48000, 96000])
def test_a_resampled_span_is_a_slice_of_the_resampled_whole(encoded, rate):
    for name in ("pcm16.wav", "vorbis.ogg", "cbr.mp3", "aac.m4a", "opus.webm"):
        whole, own_rate = load(encoded[name])
        resampled = resample(whole, own_rate, rate)
        assert load(encoded[name], sample_rate=rate).samples.shape == resampled.shape
        for start, length in spans(resampled.shape[-1], random.Random(1))[3:9]:
            part = load(encoded[name], start=start, num_frames=length, sample_rate=rate).samples
            expected = resampled[:, start : start + length]
            assert part.shape == expected.shape
            assert (part - expected).abs().max() <= 1e-6, (name, start, length)


def test_probe_counts_what_load_returns(every_format):
    info = probe(every_format)
    whole, rate = load(every_format)
    assert (info.num_channels, info.num_frames) == whole.shape
    assert info.sample_rate == rate
    assert info.duration_seconds == info.num_frames / rate
    assert info.path == str(every_format)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("pcm16.wav", "WAV/PCM_16"),
        ("pcm24.flac", "FLAC/PCM_24"),
        ("vorbis.ogg", "OGG/VORBIS"),
        ("cbr.mp3", "MP3"),
        ("video.mp4", "mov/aac"),
        ("opus.webm", "matroska/opus"),
    ],
)
def test_probe_names_the_format(encoded, name, expected):
    assert probe(encoded[name]).format == expected


def test_every_decoder_hears_the_same_music(encoded):
    """The encoders kept the sound, and no decoder shifted it: correlation with the original is highest at lag 0."""
    original = load(encoded["float.wav"]).samples[0].numpy()
    for name in ("vbr.mp3", "cbr.mp3", "aac.m4a", "video.mp4", "vorbis.ogg", "alac.m4a", "pcm.mov"):
        decoded = load(encoded[name]).samples[0].numpy()
        window = original[40000:60000]
        scores = np.correlate(decoded[39940:60060], window)  # lags -60 to 60
        assert np.argmax(scores) == 60, name
        assert scores.max() > 0.8 * window @ window, name


def test_real_files_seek_exactly(shared):
    rng = random.Random(2)
    music = sorted((shared / "data/real-music").rglob("*.*"))
    oneshots = sorted((shared / "data/real-oneshots").rglob("*.*"))
    small = [path for path in music if path.suffix in AUDIO_EXTENSIONS and path.stat().st_size < 2_600_000]
    chosen = rng.sample(small, 5) + rng.sample([path for path in oneshots if path.suffix in AUDIO_EXTENSIONS], 40)
    mp3 = [path for path in small if path.suffix == ".mp3"][:2]
    for path in chosen + mp3:
        whole = load(path).samples
        num_frames = whole.shape[-1]
        assert probe(path).num_frames == num_frames
        for start in (0, rng.randrange(num_frames), max(0, num_frames - rng.randrange(1, 3000))):
            assert torch.equal(load(path, start=start, num_frames=2000).samples, whole[:, start : start + 2000]), (path, start)


def test_real_files_of_every_kind_seek_exactly_and_resampled(shared):
    """One file of each format, rate and number of channels that there is: spans are slices of the decode of all of it."""
    rng, kinds = random.Random(3), {}
    for path in sorted((shared / "data").glob("real-*/**/*.*"), key=lambda path: path.stat().st_size):
        if path.suffix in AUDIO_EXTENSIONS and path.stat().st_size < 4_000_000:
            with soundfile.SoundFile(path) as file:
                kinds.setdefault((file.format, file.subtype, file.samplerate, file.channels), path)
    assert len(kinds) > 15 and {kind[0] for kind in kinds} >= {"WAV", "FLAC", "OGG", "MP3"}
    for path in kinds.values():
        whole, own_rate = load(path)
        resampled = resample(whole, own_rate, 32000)
        for _ in range(3):
            start, first = rng.randrange(whole.shape[-1]), rng.randrange(resampled.shape[-1])
            assert torch.equal(load(path, start=start, num_frames=3000).samples, whole[:, start : start + 3000]), path
            part = load(path, start=first, num_frames=3000, sample_rate=32000).samples
            assert (part - resampled[:, first : first + 3000]).abs().max() <= 1e-5, (path, own_rate, first)


def test_a_span_does_not_decode_the_whole_file(encoded, monkeypatch):
    from stable_audio_tools.audio import ffmpeg

    decoded = []
    original = ffmpeg.FfmpegFile._check_kind
    monkeypatch.setattr(ffmpeg.FfmpegFile, "_check_kind", lambda self, frame: (decoded.append(frame.samples), original(self, frame)))
    load(encoded["cbr.mp3"], start=7 * 44100, num_frames=1000)
    assert sum(decoded) < 2.5 * 44100


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg"])
def test_save_and_load_are_inverse(tmp_path, noise, suffix):
    path = tmp_path / "new" / "folder" / f"noise{suffix}"
    save(path, noise, 44100)
    audio = load(path)
    assert audio.sample_rate == 44100
    assert audio.samples.dtype == torch.float32
    assert audio.samples.shape == noise.shape
    if suffix != ".ogg":  # half a step of 16 bits, plus 1 / 32768 because files hold 32768ths
        assert (audio.samples - noise).abs().max() < 1.1 / 32768
    assert os.listdir(path.parent) == [path.name]


def test_int16_is_written_as_it_is(tmp_path):
    audio = torch.tensor([[-32768, -32767, -1, 0, 1, 32767]], dtype=torch.int16)
    for suffix in (".wav", ".flac"):
        save(tmp_path / f"x{suffix}", audio, 8000)
        stored, _ = soundfile.read(tmp_path / f"x{suffix}", dtype="int16", always_2d=True)
        assert stored.T.tolist() == audio.tolist()


@pytest.mark.parametrize(("subtype", "tolerance"), [("PCM_16", 1 / 32767), ("PCM_24", 2**-22), ("FLOAT", 0), ("DOUBLE", 0)])
def test_subtypes_keep_what_they_can(tmp_path, noise, subtype, tolerance):
    save(tmp_path / "x.wav", noise, 44100, subtype=subtype)
    assert probe(tmp_path / "x.wav").format.endswith(subtype)
    assert (load(tmp_path / "x.wav").samples - noise).abs().max() <= tolerance


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_save_takes_any_float_and_one_dimension(tmp_path, dtype):
    audio = torch.linspace(-1, 1, 1001).to(dtype)
    save(tmp_path / "x.wav", audio.requires_grad_(), 44100)
    loaded = load(tmp_path / "x.wav").samples
    assert loaded.shape == (1, 1001)
    assert (loaded[0] - audio.detach().float()).abs().max() < 1e-4


def test_peaks_are_clipped_with_a_warning_unless_nobody_hears_it(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        save(tmp_path / "quiet.wav", torch.tensor([0.0, 1.0009]), 44100)
        assert not caplog.records
        save(tmp_path / "loud.wav", torch.tensor([0.0, -2.0, 1.5]), 44100)
    assert caplog.messages == [f"{tmp_path / 'loud.wav'}: clipped 2 samples, the peak was +6.0 dBFS; scale the audio down"]
    assert load(tmp_path / "loud.wav").samples.abs().max() <= 1


def test_float_files_keep_peaks_above_full_scale(tmp_path, caplog):
    save(tmp_path / "x.wav", torch.tensor([0.0, -8.0]), 44100, subtype="float")
    assert load(tmp_path / "x.wav").samples.tolist() == [[0.0, -8.0]]
    assert not caplog.records


def test_a_failed_save_leaves_the_old_file_and_no_other(tmp_path, noise, monkeypatch):
    path = tmp_path / "x.wav"
    save(path, noise, 44100)
    before = path.read_bytes()

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr(soundfile.SoundFile, "write", fail)
    with pytest.raises(AudioError, match=r"x\.wav: cannot write 2 channels at 44100 Hz as WAV/PCM_16: disk full; check the folder"):
        save(path, noise, 44100)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["x.wav"]


@pytest.mark.skipif(os.name != "posix", reason="permission bits")
def test_saved_files_have_the_usual_permissions(tmp_path, noise):
    (tmp_path / "usual").touch()
    save(tmp_path / "x.wav", noise, 44100)
    assert stat.S_IMODE((tmp_path / "x.wav").stat().st_mode) == stat.S_IMODE((tmp_path / "usual").stat().st_mode)


def test_save_keeps_metadata_of_any_length(tmp_path, noise):
    for suffix in (".wav", ".flac", ".ogg"):
        metadata = {"prompt": "a " * 40_000, "seed": "1"}
        save(tmp_path / f"x{suffix}", noise, 44100, metadata=metadata)
        assert read_metadata(tmp_path / f"x{suffix}") == metadata
        assert load(tmp_path / f"x{suffix}").samples.shape == noise.shape


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"path": "x.mp3"}, r"x\.mp3: cannot save audio as \.mp3; use \.wav, \.flac or \.ogg"),
        ({"path": "x"}, r"x: cannot save audio as a file without suffix; use \.wav"),
        ({"subtype": "PCM_99"}, r"x\.wav: WAV has no subtype PCM_99; allowed are .*PCM_16"),
        ({"audio": torch.zeros(1, 2, 100)}, r"x\.wav: cannot save a tensor of shape \(1, 2, 100\); expected \(channels, samples\)"),
        ({"audio": torch.zeros(44100, 2)}, r"x\.wav: cannot save a tensor of shape \(44100, 2\); expected \(channels, samples\)"),
        ({"audio": np.zeros((1, 9))}, r"x\.wav: cannot save ndarray; expected a tensor \(torch\.as_tensor makes one\)"),
        ({"audio": [0.0]}, r"x\.wav: cannot save list; expected a tensor"),
        ({"sample_rate": 44100.0}, r"x\.wav: cannot save at a sample rate of 44100\.0; expected a whole number of Hz, 1 to 2147483647"),
        ({"sample_rate": 10**10}, r"x\.wav: cannot save at a sample rate of 10000000000; "),
        ({"sample_rate": 0}, r"x\.wav: cannot save at a sample rate of 0; "),
        ({"audio": torch.zeros(2, 0)}, r"x\.wav: cannot save a tensor of shape \(2, 0\); .* not empty"),
        ({"audio": torch.zeros(2, 10, dtype=torch.int64)}, r"x\.wav: cannot save torch\.int64 samples; expected floats"),
        ({"audio": torch.tensor([0.0, math.nan, math.inf])}, r"x\.wav: cannot save NaN or Inf, found in 2 samples; check the model"),
        ({"path": "x.flac", "audio": torch.zeros(12, 10)}, r"x\.flac: cannot write 12 channels at 44100 Hz as FLAC/PCM_16: "),
    ],
)
def test_save_refuses(tmp_path, monkeypatch, change, message):
    monkeypatch.chdir(tmp_path)
    given = {"path": "x.wav", "audio": torch.zeros(2, 100), "sample_rate": 44100, **change}
    with pytest.raises(AudioError, match=message):
        save(**given)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("wrong", [{"start": -1}, {"num_frames": 0}, {"sample_rate": 0}])
def test_load_refuses_impossible_spans(encoded, wrong):
    with pytest.raises(
        AudioError, match=r"pcm16\.wav: cannot load start=.*; start must be at least 0, num_frames and sample_rate at least 1"
    ):
        load(encoded["pcm16.wav"], **wrong)


@pytest.mark.parametrize("start", [0, 10**6, 10**18])
@pytest.mark.parametrize("rate", [None, 32000])
@pytest.mark.parametrize("name", ["pcm16.wav", "vorbis.ogg", "cbr.mp3", "aac.m4a", "music.wma"])
def test_load_refuses_to_start_beyond_the_end(encoded, name, rate, start):
    start += math.ceil(probe(encoded[name]).num_frames * (rate or 44100) / 44100)
    with pytest.raises(
        AudioError, match=rf"{name}: nothing at frame {start} \(.* Hz\), the file holds \d+ frames at .*; start before its end"
    ):
        load(encoded[name], start=start, num_frames=10, sample_rate=rate)


def test_empty_and_non_finite_files_are_refused(tmp_path):
    soundfile.write(tmp_path / "empty.wav", np.zeros((0, 1)), 44100)
    for read in (load, probe):
        with pytest.raises(AudioError, match=r"empty\.wav: holds 0 frames of audio, expected at least 1; download or export it again"):
            read(tmp_path / "empty.wav")
    audio = np.zeros(1000, np.float32)
    audio[700] = np.inf
    soundfile.write(tmp_path / "inf.wav", audio, 44100, subtype="FLOAT")
    with pytest.raises(AudioError, match=r"inf\.wav: holds NaN or Inf, first at frame 700, expected finite samples"):
        load(tmp_path / "inf.wav", start=100)
    assert load(tmp_path / "inf.wav", num_frames=700).samples.shape == (1, 700)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts open files in /proc")
def test_files_are_closed_on_error(tmp_path, encoded):
    broken = {name: tmp_path / name for name in ("cut.flac", "cut.wav", "cut.mp3", "cut.m4a")}
    for path, source in zip(broken.values(), ("pcm24.flac", "pcm16.wav", "cbr.mp3", "aac.m4a"), strict=True):
        path.write_bytes(encoded[source].read_bytes()[: encoded[source].stat().st_size // 2])
    num_open = len(os.listdir("/proc/self/fd"))
    for path in broken.values():
        with pytest.raises(AudioError, match="cut"):
            load(path)
    assert len(os.listdir("/proc/self/fd")) == num_open


def test_importing_is_silent_and_leaves_the_codecs_alone():
    code = "import stable_audio_tools.audio, sys; print([name for name in ('av', 'soxr') if name in sys.modules])"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60, cwd=root)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_extensions_are_lower_case_suffixes_and_contain_those_of_upstream():
    assert {".wav", ".mp3", ".flac", ".ogg", ".aif", ".opus"} < AUDIO_EXTENSIONS
    assert all(suffix.startswith(".") and suffix == suffix.lower() for suffix in AUDIO_EXTENSIONS)
