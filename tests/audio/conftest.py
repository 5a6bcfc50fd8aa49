"""Audio in every format, made here: synthetic signals through the encoders of libsndfile and ffmpeg."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import soxr
import torch

RATE = 44100
SECONDS = 8.3


def _music() -> np.ndarray:
    """(T, 2) of chirps and noise bursts: tonal enough for a codec's prediction, noisy enough for its noise substitution."""
    rng = np.random.default_rng(0)
    time = np.arange(int(SECONDS * RATE)) / RATE
    bursts = np.exp(-8 * (time % 0.37))
    left = 0.3 * np.sin(2 * np.pi * (80 * time + 60 * time**2)) + 0.2 * bursts * rng.standard_normal(len(time))
    right = 0.3 * np.sin(2 * np.pi * 330 * time) * bursts + 0.1 * rng.standard_normal(len(time))
    return np.stack([left, right], axis=1).clip(-1, 1).astype(np.float32)


def encode(path: Path, codec: str, audio: np.ndarray, rate: int, *, container: str | None = None, bit_rate: int = 128_000, **settings):
    """Encode (T, C) ``audio`` with ffmpeg; ``video=True`` adds a picture track, ``gap_at=seconds`` leaves a hole of 0.5 s."""
    video, gap_at = settings.pop("video", False), settings.pop("gap_at", None)
    layout = {1: "mono", 2: "stereo"}[audio.shape[1]]
    with av.open(str(path), "w", format=container) as output:
        stream = output.add_stream(codec, rate=rate, options={key: str(value) for key, value in settings.items()})
        stream.bit_rate, stream.layout = bit_rate, layout
        pictures = output.add_stream("mpeg4", rate=25) if video else None
        if pictures is not None:
            pictures.width = pictures.height = 64
            pictures.pix_fmt = "yuv420p"
        for first in range(0, len(audio), rate):  # second by second, so that both tracks interleave
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(audio[first : first + rate].T), format="fltp", layout=layout)
            frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
            frame.pts = first + (rate // 2 if gap_at is not None and first >= gap_at * rate else 0)
            output.mux(stream.encode(frame))
            for number in range(25) if pictures is not None else ():
                picture = av.VideoFrame.from_ndarray(np.full((64, 64, 3), number * 9, np.uint8), format="rgb24")
                picture.pts = first // rate * 25 + number
                output.mux(pictures.encode(picture))
        output.mux(stream.encode(None))
        if pictures is not None:
            output.mux(pictures.encode(None))


def _make_all(folder: Path) -> dict[str, Path]:
    music = _music()
    at_48k = soxr.resample(music, RATE, 48000).astype(np.float32)

    def made(name: str) -> Path:
        return folder / name

    for name, subtype in (("pcm16.wav", "PCM_16"), ("float.wav", "FLOAT"), ("pcm24.flac", "PCM_24"), ("pcm16.aiff", "PCM_16")):
        soundfile.write(made(name), music, RATE, subtype=subtype)
    soundfile.write(made("vorbis.ogg"), music, RATE)
    soundfile.write(made("vbr.mp3"), music, RATE)
    soundfile.write(made("music.opus"), at_48k, 48000, format="OGG", subtype="OPUS")
    encode(made("cbr.mp3"), "libmp3lame", music, RATE)
    encode(made("low.mp3"), "libmp3lame", soxr.resample(music, RATE, 22050)[:, :1].astype(np.float32), 22050, bit_rate=8000)
    encode(made("aac.m4a"), "aac", music, RATE, container="ipod")
    encode(made("alac.m4a"), "alac", music, RATE, container="ipod")
    encode(made("video.mp4"), "aac", music, RATE, video=True)
    encode(made("aac.aac"), "aac", music, RATE, container="adts")
    encode(made("aac.mkv"), "aac", music, RATE, video=True)
    encode(made("flac.mka"), "flac", at_48k, 48000, container="matroska")
    encode(made("pcm.mov"), "pcm_s16le", music, RATE)
    encode(made("opus.webm"), "libopus", at_48k, 48000)
    encode(made("speech.opus"), "libopus", at_48k[:, :1] * 0.3, 48000, container="ogg", bit_rate=12000, application="voip")
    encode(made("vorbis.webm"), "vorbis", at_48k, 48000, strict=-2)
    encode(made("music.wma"), "wmav2", music, RATE, container="asf")
    return {path.name: path for path in sorted(folder.iterdir())}


FORMATS = (
    *("pcm16.wav", "float.wav", "pcm24.flac", "pcm16.aiff", "vorbis.ogg", "vbr.mp3", "music.opus", "cbr.mp3", "low.mp3", "aac.m4a"),
    *("alac.m4a", "video.mp4", "aac.aac", "aac.mkv", "flac.mka", "pcm.mov", "opus.webm", "speech.opus", "vorbis.webm", "music.wma"),
)


@pytest.fixture(scope="session")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One file of 8.3 s per format, by name."""
    files = _make_all(tmp_path_factory.mktemp("encoded"))
    assert set(files) == set(FORMATS)
    return files


@pytest.fixture(params=FORMATS)
def every_format(request: pytest.FixtureRequest, encoded: dict[str, Path]) -> Path:
    """Each of the files of :func:`encoded` in turn."""
    return encoded[request.param]


@pytest.fixture(scope="session")
def encoder() -> Callable[..., None]:
    """The function :func:`encode`."""
    return encode


@pytest.fixture
def noise() -> torch.Tensor:
    """(2, 44100) of noise below full scale."""
    return torch.rand(2, 44100, generator=torch.Generator().manual_seed(0)) - 0.5
