"""Audio files: find out what one holds, load a span of it, save one.

>>> import tempfile, torch
>>> path = tempfile.mkdtemp() + "/half-a-second.wav"
>>> save(path, torch.zeros(2, 22050), 44100)
>>> probe(path).duration_seconds
0.5
>>> audio = load(path, start=20000, num_frames=4096, sample_rate=48000)
>>> tuple(audio.samples.shape), audio.sample_rate
((2, 4000), 48000)
"""

from __future__ import annotations

import logging
import math
import os
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from numbers import Integral
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

import numpy as np
import soundfile  # pyright: ignore[reportMissingTypeStubs]
import torch
from numpy.typing import NDArray
from torch import Tensor

from stable_audio_tools.audio.decode import Decoder, decode
from stable_audio_tools.audio.headers import NEXT_STEP
from stable_audio_tools.audio.pcm import from_int16, to_int16
from stable_audio_tools.audio.resample import RESAMPLE_MARGIN, is_shift_invariant, resample_channels
from stable_audio_tools.audio.source import as_source, source_name
from stable_audio_tools.audio.tags import append_info, make_tags, write_comments
from stable_audio_tools.errors import AudioError

logger = logging.getLogger(__name__)
Result = TypeVar("Result")

AUDIO_EXTENSIONS = frozenset(
    {".wav", ".mp3", ".flac", ".ogg", ".aif", ".opus"}  # what upstream scans for
    | {".aiff", ".aifc", ".wave", ".w64", ".rf64", ".caf", ".au", ".oga", ".mp2", ".m4a", ".m4b", ".aac", ".wma", ".wv", ".mka"}
    | {".mp4", ".m4v", ".mov", ".mkv", ".webm"}  # of video files, the first audio track
)
"""Lower-case suffixes a dataset scans for. :func:`load` looks at the content and takes any name."""

_SAVE_FORMATS = {".wav": ("WAV", "PCM_16"), ".flac": ("FLAC", "PCM_16"), ".ogg": ("OGG", "VORBIS")}
_MAX_CHANNELS = 64  # more are a transposed tensor
_MAX_RATE = 2**31 - 1  # what libsndfile can hold
_CLIPPING_TOLERANCE_DB = -60.0  # an overshoot that nobody hears is clipped without a word
_WRITE_BLOCK_FRAMES = 1 << 16  # libvorbis overflows its stack on long writes (libsndfile 1.2.2)


class Audio(NamedTuple):
    """Decoded audio."""

    samples: Tensor
    """(C, T) float32; full scale is 1.0, which float files and lossy codecs may exceed."""
    sample_rate: int
    """Hz."""


class AudioInfo(NamedTuple):
    """What a file holds."""

    path: str
    sample_rate: int
    """Hz."""
    num_channels: int
    num_frames: int
    """Samples per channel: exactly as many as :func:`load` returns."""
    duration_seconds: float
    format: str
    """Container and codec, such as ``"WAV/PCM_16"``, ``"MP3"`` or ``"mov/aac"``."""


def probe(path: str | os.PathLike[str] | BinaryIO) -> AudioInfo:
    """Measure a file without decoding it where that is exact.

    Headers are trusted for WAV, FLAC, AIFF and Ogg Vorbis after the last frame they promise has been decoded; packets are counted for
    MP3, Opus and MP4; codecs in containers with coarse timestamps (AAC or Vorbis in Matroska, WMA) are decoded.

    Args:
        path: An audio file, or a video file with sound; or an open binary file that holds one, such as a member of an archive.

    Raises:
        AudioError: If the file cannot be decoded, is empty, or is shorter than its header says. Lossy formats may fall short by 1 %
            plus 4,608 frames (see :func:`~stable_audio_tools.audio.headers.is_broken_lossy_promise`).
    """
    return use_audio(path, OpenAudio.probe)


def load(
    path: str | os.PathLike[str] | BinaryIO, *, start: int = 0, num_frames: int | None = None, sample_rate: int | None = None
) -> Audio:
    """Decode a span of a file; only that span, wherever the codec allows.

    The samples equal the same slice of the whole file: to the bit for PCM, FLAC, Vorbis, Opus and MP3 (0 measured), and within 1e-6 after
    resampling. AAC, and any codec in a container with coarse timestamps, is decoded from the start of the file for that.

    Args:
        path: An audio file, or a video file with sound; or an open binary file that holds one. Its content decides, not its suffix.
        start: First frame, counted at the rate of the result.
        num_frames: Frames to return, at the rate of the result; None for all. Fewer are returned where the file ends.
        sample_rate: Rate of the result in Hz; None for the file's own.

    Returns:
        The samples, (C, T) float32 as decoded (peaks above 1.0 are kept), and their rate.

    Raises:
        AudioError: If the file cannot be decoded, holds NaN or Inf, ends before ``start``, or is shorter than its header says.
    """
    return use_audio(path, lambda audio: audio.load(start=start, num_frames=num_frames, sample_rate=sample_rate))


class OpenAudio:
    """An open file, to be measured and loaded without opening it twice. See :func:`use_audio`."""

    def __init__(self, decoder: Decoder, name: str) -> None:
        self._decoder = decoder
        self._name = name

    def probe(self) -> AudioInfo:
        """What :func:`probe` says of it."""
        return info_of(self._decoder, self._name, self._decoder.count_frames())

    def load(self, *, start: int = 0, num_frames: int | None = None, sample_rate: int | None = None) -> Audio:
        """What :func:`load` returns of it."""
        name, decoder = self._name, self._decoder
        bounds = ((start, 0), (num_frames, 1), (sample_rate, 1))
        if not all(value is None or (isinstance(value, Integral) and value >= least) for value, least in bounds):
            given = f"start={start}, num_frames={num_frames}, sample_rate={sample_rate}"
            raise AudioError(
                f"{name}: cannot load {given}; start must be at least 0, num_frames and sample_rate at least 1, all whole numbers"
            )
        rate = sample_rate or decoder.sample_rate
        if rate == decoder.sample_rate:
            samples = _read(decoder, name, start, num_frames)
        else:
            samples = _read_resampled(decoder, name, start, num_frames, rate)
        if not samples.shape[1]:
            num_held = decoder.count_frames()
            held = f"the file holds {num_held} frames at {decoder.sample_rate} Hz"
            raise AudioError(f"{name}: nothing at frame {start} ({rate} Hz), {held}; start before its end") if num_held else _empty(name)
        return Audio(torch.as_tensor(samples), rate)


def use_audio(path: str | os.PathLike[str] | BinaryIO, use: Callable[[OpenAudio], Result]) -> Result:
    """Open a file once, for all that is wanted of it.

    Args:
        path: As for :func:`load`.
        use: What to do with it. Called again, with another decoder, if the first one fails.

    Raises:
        AudioError: If the file cannot be decoded, and whatever ``use`` raises.
    """
    name = source_name(as_source(path))
    return decode(path, lambda decoder: use(OpenAudio(decoder, name)))


def save(
    path: str | os.PathLike[str],
    audio: Tensor,
    sample_rate: int,
    *,
    metadata: Mapping[str, str] | None = None,
    subtype: str | None = None,
) -> None:
    """Write a WAV, FLAC or OGG file, by suffix; missing folders are made, and the file appears only when it is complete.

    Args:
        path: Where to; ``.wav``, ``.flac`` or ``.ogg``.
        audio: (C, T) or (T,). Floats have full scale 1.0 and are clipped there, with a warning above 1.001; int16 is written as it is.
            The WAV subtypes ``FLOAT`` and ``DOUBLE`` keep peaks above 1.0.
        sample_rate: Hz.
        metadata: Anything worth keeping, such as prompt and seed; :func:`~stable_audio_tools.audio.tags.read_metadata` gives it back.
        subtype: How samples are stored, as libsndfile calls it; ``PCM_16`` by default, ``VORBIS`` for OGG.

    Raises:
        AudioError: If ``audio`` has another shape or dtype, is empty, or holds NaN or Inf, or if the format cannot hold it.
    """
    target = Path(path)
    if target.suffix.lower() not in _SAVE_FORMATS:
        raise AudioError(f"{target}: cannot save audio as {target.suffix or 'a file without suffix'}; use .wav, .flac or .ogg")
    file_format, default_subtype = _SAVE_FORMATS[target.suffix.lower()]
    subtype = (subtype or default_subtype).upper()
    if not soundfile.check_format(file_format, subtype):
        allowed = ", ".join(sorted(soundfile.available_subtypes(file_format)))
        raise AudioError(f"{target}: {file_format} has no subtype {subtype}; allowed are {allowed}")
    if not isinstance(sample_rate, Integral) or not 1 <= sample_rate <= _MAX_RATE:
        raise AudioError(f"{target}: cannot save at a sample rate of {sample_rate!r}; expected a whole number of Hz, 1 to {_MAX_RATE}")
    samples = _storable(audio, str(target), subtype)  # (T, C)
    tags = make_tags(metadata or {}, path=str(target))
    temporary = target.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with soundfile.SoundFile(temporary, "w", sample_rate, samples.shape[1], subtype, format=file_format) as file:
            if file_format != "WAV":
                write_comments(file, tags)
            for first in range(0, len(samples), _WRITE_BLOCK_FRAMES):
                file.write(samples[first : first + _WRITE_BLOCK_FRAMES])
        if file_format == "WAV":
            append_info(temporary, tags)
        os.replace(temporary, target)
    except (OSError, soundfile.SoundFileError) as error:
        what = f"{samples.shape[1]} channels at {sample_rate} Hz as {file_format}/{subtype}"
        raise AudioError(f"{target}: cannot write {what}: {error}; check the folder, or choose another format") from error
    finally:
        with suppress(OSError):  # below something that is no folder, it cannot even be looked for
            temporary.unlink(missing_ok=True)


def info_of(decoder: Decoder, path: str, num_frames: int) -> AudioInfo:
    """What an open file holds, given its counted frames.

    Raises:
        AudioError: If there are none.
    """
    if not num_frames:
        raise _empty(path)
    rate = decoder.sample_rate
    return AudioInfo(path, rate, decoder.num_channels, num_frames, num_frames / rate, decoder.format)


def check_finite(samples: NDArray[np.floating[Any]], path: str, start: int) -> None:
    """Refuse NaN and Inf in (C, T) samples that begin at frame ``start``.

    Raises:
        AudioError: With the first such frame.
    """
    if not np.isfinite(samples).all():
        frame = start + int(np.argmin(np.isfinite(samples).all(axis=0)))
        raise AudioError(f"{path}: holds NaN or Inf, first at frame {frame}, expected finite samples; {NEXT_STEP}")


def _empty(path: str) -> AudioError:
    return AudioError(f"{path}: holds 0 frames of audio, expected at least 1; {NEXT_STEP}")


def _read(decoder: Decoder, path: str, start: int, num_frames: int | None) -> NDArray[np.float32]:
    samples = decoder.read(start, num_frames)  # (C, T)
    check_finite(samples, path, start)
    return samples


def _read_resampled(decoder: Decoder, path: str, start: int, num_frames: int | None, rate: int) -> NDArray[np.float32]:
    """The span at ``rate``: its source with a margin for the filter on both sides, begun where both rates have a sample."""
    divisor = math.gcd(rate, decoder.sample_rate)
    up, down = rate // divisor, decoder.sample_rate // divisor  # `up` samples of the result for `down` of the source
    margin = RESAMPLE_MARGIN * max(1, math.ceil(down / up))
    can_skip = is_shift_invariant(decoder.sample_rate, rate)
    period = max(0, start // up - math.ceil(margin / down)) if can_skip else 0
    num_source = None if num_frames is None else math.ceil((start + num_frames) * down / up) + margin - period * down
    source = _read(decoder, path, period * down, num_source)
    first = start - period * up
    last = None if num_frames is None else first + num_frames
    return np.asarray(resample_channels(source, decoder.sample_rate, rate, start=first, stop=last), dtype=np.float32)  # (C, T)


def _storable(audio: Tensor, path: str, subtype: str) -> NDArray[Any]:
    """Checked (T, C) samples in the dtype to hand to libsndfile."""
    if not isinstance(audio, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise AudioError(f"{path}: cannot save {type(audio).__name__}; expected a tensor (torch.as_tensor makes one)")
    if audio.dim() not in (1, 2) or not audio.numel() or (audio.dim() == 2 and audio.shape[0] > _MAX_CHANNELS):
        raise AudioError(
            f"{path}: cannot save a tensor of shape {tuple(audio.shape)}; expected (channels, samples) or (samples,), not empty"
        )
    if audio.dtype != torch.int16 and not audio.is_floating_point():
        raise AudioError(f"{path}: cannot save {audio.dtype} samples; expected floats in [-1, 1] or int16")
    audio = audio.detach().cpu().reshape(-1, audio.shape[-1])  # (C, T)
    keeps_floats = subtype in ("FLOAT", "DOUBLE")
    if audio.dtype == torch.int16:
        return (from_int16(audio) if keeps_floats else audio).T.contiguous().numpy()
    if audio.dtype != torch.float64:
        audio = audio.float()  # libsndfile has no half
    if not torch.isfinite(audio).all():
        raise AudioError(
            f"{path}: cannot save NaN or Inf, found in {int((~torch.isfinite(audio)).sum())} samples; check the model's output"
        )
    peak = float(audio.abs().max())
    if peak > 1 and not keeps_floats:
        if 20 * math.log10(peak - 1) > _CLIPPING_TOLERANCE_DB:
            num_clipped = int((audio.abs() > 1).sum())
            logger.warning(
                "%s: clipped %d samples, the peak was %+.1f dBFS; scale the audio down", path, num_clipped, 20 * math.log10(peak)
            )
        audio = audio.clamp(-1, 1)
    return (to_int16(audio) if subtype == "PCM_16" else audio).T.contiguous().numpy()
