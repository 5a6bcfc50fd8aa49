"""Decoder for everything else: MP3, Opus, AAC and the audio of video containers, by ffmpeg through PyAV.

A span equals the same slice of a full decode because of three rules, all measured on encoded music and speech:

1. *Codecs that forget* (MP3, lossless, Opus in its music mode) are entered ``_PREROLL_SECONDS`` before the span. MP3 at 8 kbit/s
   needs 1 s until its bit reservoir is full, Opus 0.5 s; then the difference is exactly 0.
2. *Codecs that remember* are decoded from the start of the file: AAC (its noise bands come from a generator that runs through the
   whole file; a seek changes samples by up to 0.3), Opus in its speech mode (feedback keeps 2e-5 alive for over 4 s), and
   all others. AAC decodes at about 1,700 times real time, so this costs 2 s per hour of audio skipped.
3. *Clocks that are too coarse* to name a sample (44.1 kHz in Matroska: 1 ms) are not trusted either: decoded from the start.

Where timestamps do name samples, they decide where a frame belongs: gaps are filled with silence, overlaps are cut.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator
from fractions import Fraction
from itertools import chain
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stable_audio_tools.audio.headers import NEXT_STEP, broken_promise, is_broken_lossy_promise, xing_frames
from stable_audio_tools.audio.pcm import join_blocks
from stable_audio_tools.audio.source import Source, source_name
from stable_audio_tools.errors import AudioError, counted

if TYPE_CHECKING:
    from av import AudioFrame, Packet
    from av.audio.stream import AudioStream
    from av.error import FFmpegError

_PREROLL_SECONDS = 2
_MAX_GAP_SECONDS = 60  # a recording that paused has gaps; longer ones are a broken clock
_TAIL_PACKETS = 16
_BLOCK_FRAMES = 1 << 17

_FIRST_OPUS_MUSIC_MODE = 16  # configuration numbers below are SILK or hybrid, from here on CELT (RFC 6716, table 2)

# dtype, value of silence, full scale
_SAMPLE_FORMATS: dict[str, tuple[type[np.number[Any]], int, float]] = {
    "u8": (np.uint8, 128, 2.0**7),
    "s16": (np.int16, 0, 2.0**15),
    "s32": (np.int32, 0, 2.0**31),
    "s64": (np.int64, 0, 2.0**63),
    "flt": (np.float32, 0, 1),
    "dbl": (np.float64, 0, 1),
}
_LOSSLESS = frozenset({"flac", "alac", "wavpack", "tta", "ape", "wmalossless"})
_FORGETS = frozenset({"flac", "alac", "wavpack", "tta", "mp1", "mp2", "mp3", "opus"})
# Only containers and streams of audio: a playlist or subtitle file that carries an audio suffix must not be followed to other files.
_DEMUXERS = (
    "aac,ac3,aiff,amr,ape,asf,au,avi,caf,dsf,eac3,flac,flv,iff,matroska,mov,mp3,mpc,mpc8,mpeg,mpegts,ogg,oma,rm,shn,spdif,tak,tta,"
    "voc,w64,wav,wv"
)


class FfmpegFile:
    """An open file; the :class:`~stable_audio_tools.audio.decode.Decoder` made of ffmpeg.

    Raises:
        AudioError: If ffmpeg cannot open or decode it, here or in any method.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._path = source_name(source)
        self._open()
        first = self._peeked[0]
        self.sample_rate = first.sample_rate
        self.num_channels = len(first.layout.channels)
        container = self._container.format.name.split(",")[0]
        self.format = "MP3" if container == "mp3" else f"{container}/{self._codec}"

    def __enter__(self) -> FfmpegFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._container.close()

    def count_frames(self) -> int:
        """The number of frames, by reading all packets and decoding the last few; by decoding all if the clock is coarse."""
        self._rewind()
        end = sum(frame.samples for frame in self._peeked)
        packets: Iterator[Packet[AudioStream]] = self._packets
        if self._clock is not None:
            tail = deque(self._packets, maxlen=_TAIL_PACKETS)
            if len(tail) == _TAIL_PACKETS:
                self._stream.codec_context.flush_buffers()
                self._has_begun = False
            packets = iter(tail)
        for frame in chain.from_iterable(self._decode(packets)):
            position = self._clock.position(frame) if self._clock else None
            end = (end if position is None else position) + frame.samples
        self._check_promise(end)
        return end

    def read(self, start: int, num_frames: int | None) -> NDArray[np.float32]:
        """(C, T) samples from frame ``start`` on; T is smaller than ``num_frames`` only at the end of the file."""
        stop = sys.maxsize if num_frames is None else start + num_frames
        entry = start - _PREROLL_SECONDS * self.sample_rate
        can_seek = self._clock is not None and (self._codec in _FORGETS or self._codec.startswith("pcm_"))
        if can_seek and entry > 0:
            samples = self._read_after_seek(entry, start, stop)
            if samples is not None:
                return samples
        return join_blocks(deque(self._all(start, stop)), self.num_channels)

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """All samples, as consecutive (C, T) blocks."""
        held: deque[NDArray[np.float32]] = deque()
        num_held = 0
        for samples in self._all(0, sys.maxsize):
            held.append(samples)
            num_held += samples.shape[1]
            if num_held >= _BLOCK_FRAMES:
                yield join_blocks(held, self.num_channels)
                num_held = 0
        if held:
            yield join_blocks(held, self.num_channels)

    def _all(self, start: int, stop: int) -> Iterator[NDArray[np.float32]]:
        """The span, decoded from the start of the file."""
        self._rewind()
        return self._placed(chain(self._peeked, chain.from_iterable(self._decode(self._packets))), start, stop, expected=0)

    def _read_after_seek(self, entry: int, start: int, stop: int) -> NDArray[np.float32] | None:
        """The span, decoded from frame ``entry`` on; None if the seek landed too late or the codec turns out to remember."""
        from av.error import FFmpegError

        assert self._clock is not None
        self._is_fresh = False
        self._has_begun = False
        try:
            self._container.seek(self._clock.pts(entry), stream=self._stream)
        except (FFmpegError, OverflowError):  # the latter for a start beyond any file
            return None
        frames = chain.from_iterable(self._decode(self._demux(), after_seek=True))
        try:
            return join_blocks(deque(self._placed(frames, start, stop, expected=None)), self.num_channels)
        except _CannotSeekError:
            return None

    def _placed(self, frames: Iterator[AudioFrame], start: int, stop: int, *, expected: int | None) -> Iterator[NDArray[np.float32]]:
        """(C, t) samples of [start, stop) of ``frames``, of which the first is at ``expected``, or where its timestamp says if None.

        Raises:
            _CannotSeekError: If that timestamp is missing or too late.
        """
        clock = self._clock
        for frame in frames:
            position = clock.position(frame) if clock else None
            if expected is None:
                if position is None or position > start:
                    raise _CannotSeekError
                expected = position
            if clock is None or position is None or abs(position - expected) <= clock.up:
                position = expected
            self._check_gap(position - expected, expected)
            if (gap := min(position, stop) - max(expected, start)) > 0:
                yield np.zeros((self.num_channels, gap), dtype=np.float32)
            first, last = max(position, expected, start), min(position + frame.samples, stop)
            if last > first:
                yield _samples(frame)[:, first - position : last - position]
            expected = max(expected, position + frame.samples)
            if expected >= stop:
                return
        if expected is None:
            raise _CannotSeekError
        self._check_promise(expected)

    def _open(self) -> None:
        import av
        from av.error import FFmpegError

        # The prefix keeps names such as "concat:a|b" or "http://..." from being anything but file names.
        file = f"file:{self._source}" if isinstance(self._source, str) else self._source
        if not isinstance(file, str):
            file.seek(0)
        try:
            self._container = av.open(file, "r", options={"format_whitelist": _DEMUXERS}, metadata_errors="ignore")
        except FFmpegError as error:
            expected = "expected WAV, FLAC, OGG, MP3, M4A or another common format"
            raise AudioError(f"{self._path}: is not audio that can be decoded ({_reason(error)}); {expected}") from error
        try:
            self._begin()
        except BaseException:
            self._container.close()
            raise

    def _begin(self) -> None:
        """Choose the stream and decode two frames: they show the true rate and channels, and where sample 0 is."""
        streams = self._container.streams.audio
        if not streams:
            raise AudioError(f"{self._path}: holds no audio stream; expected a file with sound, {NEXT_STEP}")
        self._stream: AudioStream = streams[0]
        if self._stream.codec_context is None:  # pyright: ignore[reportUnnecessaryComparison]  # PyAV's stub forgets unknown codecs
            raise AudioError(f"{self._path}: is encoded in a way ffmpeg has no decoder for; convert it to WAV or FLAC")
        self._stream.codec_context.thread_count = 1  # loaders have a process per core already
        self._codec = self._stream.codec_context.name.removesuffix("float")
        if self._codec == "flac":
            self._stream.codec_context.options = {"err_detect": "crccheck+explode"}  # else damage decodes as noise
        self._first_packet: Packet[AudioStream] | None = None
        self._kind: tuple[int, int] | None = None
        self._clock: _Clock | None = None
        self._held = 0
        self._has_begun = False
        self._is_fresh = True
        self._packets = self._demux()
        self._peeked: list[AudioFrame] = []
        for frames in self._decode(self._packets):
            self._peeked += frames
            if len(self._peeked) > 1:
                break
        if not self._peeked:
            raise AudioError(f"{self._path}: holds no audio frame that can be decoded, expected at least one; {NEXT_STEP}")
        self._clock = _Clock.of(self._stream.time_base, self._peeked)

    def _rewind(self) -> None:
        if not self._is_fresh:
            self._container.close()
            self._open()
        self._is_fresh = False

    def _demux(self) -> Iterator[Packet[AudioStream]]:
        from av.error import FFmpegError

        try:
            for packet in self._container.demux(self._stream):
                if self._first_packet is None:
                    self._first_packet = packet
                yield packet
        except FFmpegError as error:
            raise self._damage(error) from error

    def _decode(self, packets: Iterator[Packet[AudioStream]], *, after_seek: bool = False) -> Iterator[list[AudioFrame]]:
        """The frames of each packet.

        Of lossy streams, junk before the first and after the last good frame is skipped, as players do: tags, cut-off frames.
        """
        from av.error import FFmpegError

        failure: FFmpegError | None = None
        for packet in packets:
            if after_seek and self._codec == "opus" and packet.size and bytes(packet)[0] >> 3 < _FIRST_OPUS_MUSIC_MODE:
                raise _CannotSeekError
            try:
                frames = [frame for frame in packet.decode() if frame.samples]
            except FFmpegError as error:
                self._held = self._position(packet.pts)
                if self._codec in _LOSSLESS:
                    raise self._damage(error) from error
                failure = error
                continue
            if frames and failure is not None and self._has_begun:
                raise self._damage(failure) from failure
            for frame in frames:
                self._held = self._position(frame.pts)
                self._check_kind(frame)
                self._held += frame.samples
                self._has_begun = True
            yield frames

    def _position(self, pts: int | None) -> int:
        """About where ``pts`` is, in frames, for messages."""
        return self._held if self._clock is None or pts is None else self._clock.at(pts)

    def _check_kind(self, frame: AudioFrame) -> None:
        kind = (len(frame.layout.channels), frame.sample_rate)
        self._kind = self._kind or kind
        if kind != self._kind:
            channels = counted(self._kind[0], "channel")
            raise AudioError(
                f"{self._path}: changes from {channels} at {self._kind[1]} Hz to {kind[0]} at {kind[1]} Hz "
                f"after {self._held} frames, expected one kind throughout; split or re-encode it"
            )

    def _check_gap(self, num_frames: int, position: int) -> None:
        if num_frames > 0 and self._codec == "flac":  # ffmpeg drops FLAC frames whose checksum is wrong
            raise AudioError(f"{self._path}: holds damaged data after {position} frames (a FLAC frame is lost); {NEXT_STEP}")
        if num_frames > _MAX_GAP_SECONDS * self.sample_rate:
            raise AudioError(
                f"{self._path}: timestamps jump by {num_frames / self.sample_rate:.0f} s at {position / self.sample_rate:.1f} s, "
                f"allowed are {_MAX_GAP_SECONDS} s; re-encode it"
            )

    def _check_promise(self, held: int) -> None:
        promised = self._promised_frames()
        is_exact = self._container.format.name == "flac"
        if promised is not None and (held < promised if is_exact else is_broken_lossy_promise(promised, held)):
            raise broken_promise(self._path, promised, held)

    def _promised_frames(self) -> int | None:
        """Frames the header states; None where ffmpeg would only estimate them from the bit rate."""
        container, packet = self._container.format.name, self._first_packet
        if container == "mp3" and self._peeked and packet is not None and packet.pos is not None:
            num_mp3_frames = xing_frames(self._source, position=packet.pos, num_bytes=packet.size)
            return None if num_mp3_frames is None else num_mp3_frames * self._peeked[-1].samples
        if container == "flac" or container.startswith("mov"):
            duration, time_base = self._stream.duration, self._stream.time_base
            rate = self._kind[1] if self._kind else self._stream.sample_rate
            return round(duration * time_base * rate) if duration and time_base else None
        return None

    def _damage(self, error: FFmpegError) -> AudioError:
        promised = self._promised_frames() if self._first_packet else None
        if promised is not None and promised > self._held:
            return broken_promise(self._path, promised, self._held, f" before damaged data ({_reason(error)})")
        return AudioError(f"{self._path}: holds damaged data after {self._held} frames ({_reason(error)}); {NEXT_STEP}")


class _CannotSeekError(Exception):
    """A seek landed too late, or in packets whose decoding depends on everything before."""


class _Clock(NamedTuple):
    """Timestamps that name samples exactly: a tick is ``up / down`` samples, ``anchor_pts`` is the pts of sample ``anchor_position``.

    Whole numbers, since arithmetic of fractions took a fifth of the time of decoding an MP3.
    """

    anchor_pts: int
    anchor_position: int
    up: int
    down: int

    @classmethod
    def of(cls, time_base: Fraction | None, frames: list[AudioFrame]) -> _Clock | None:
        """The clock of a stream, from its first frames; None if it is too coarse to tell samples apart."""
        first, second = frames[0], frames[min(1, len(frames) - 1)]
        if time_base is None or first.pts is None or second.pts is None:
            return None
        tick = time_base * first.sample_rate
        if tick.numerator == 1:
            return cls(first.pts, 0, 1, tick.denominator)
        # Whole ticks per frame: 20 ms of Opus in Matroska. The first frame lost its codec delay and its pts is rounded.
        if tick.denominator == 1 and second is not first and second.samples % tick == 0:
            return cls(second.pts, first.samples, tick.numerator, 1)
        return None

    def position(self, frame: AudioFrame) -> int | None:
        """First sample of ``frame``; None if it does not say, or was cut so that it no longer begins on a tick."""
        if frame.pts is None or frame.samples % self.up:
            return None
        return self.at(frame.pts)

    def at(self, pts: int) -> int:
        """The sample at timestamp ``pts``."""
        ticks = (pts - self.anchor_pts) * self.up
        return self.anchor_position + (2 * ticks + self.down) // (2 * self.down)  # to the nearest

    def pts(self, position: int) -> int:
        """The last timestamp that is not after sample ``position``."""
        return self.anchor_pts + (position - self.anchor_position) * self.down // self.up


def _reason(error: FFmpegError) -> str:
    return error.strerror or type(error).__name__


def _samples(frame: AudioFrame) -> NDArray[np.float32]:
    """(C, t) samples of a decoded frame, integers divided by their full scale as libsndfile does."""
    name, num_channels = frame.format.name, len(frame.layout.channels)
    dtype, offset, full_scale = _SAMPLE_FORMATS[name.removesuffix("p")]
    values = np.empty((num_channels, frame.samples), dtype)
    if frame.format.is_planar:
        for channel, plane in enumerate(frame.planes):
            values[channel] = np.frombuffer(bytes(plane), dtype, count=frame.samples)
    else:
        interleaved = np.frombuffer(bytes(frame.planes[0]), dtype, count=frame.samples * num_channels)
        for channel in range(num_channels):
            values[channel] = interleaved[channel::num_channels]
    if full_scale == 1:
        return values.astype(np.float32, copy=False)
    return ((values.astype(np.float64) - offset) / full_scale).astype(np.float32)
