"""Decoder for what libsndfile reads best: WAV, FLAC, AIFF, Ogg Vorbis and their kin.

Its seeks are exact to the sample in all of these (measured on 379 real files, 25 spans each).
MP3 and Opus go to ffmpeg although libsndfile opens them: its MP3 length is an estimate that cuts off some files, mpg123 writes to
stderr, and after a seek its Opus speech stays 0.007 off the full decode, however early the seek lands.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from types import TracebackType

import numpy as np
import soundfile  # pyright: ignore[reportMissingTypeStubs]
from numpy.typing import NDArray

from stable_audio_tools.audio.headers import NEXT_STEP, broken_promise, flac_holds_more, iff_shortage, ogg_end
from stable_audio_tools.audio.pcm import join_blocks
from stable_audio_tools.audio.source import Source, source_name
from stable_audio_tools.errors import AudioError

MAGICS = (b"RIFF", b"RIFX", b"RF64", b"FORM", b"fLaC", b"OggS", b"caff", b".snd", b"riff\x2e\x91\xcf\x11")

_BLOCK_FRAMES = 1 << 18
# libvorbisfile counts back from the end of a page to find its place, and the end of the last page is cut to the true length: a seek
# into it lands up to a block off. Spans from there on are entered one block before the last page.
_MAX_VORBIS_BLOCK = 8192
_UNKNOWN_FRAMES = 1 << 48  # libsndfile answers 2**63 - 1 for a FLAC that was written to a pipe
_FLAC_BYTES_PER_SAMPLE = {"PCM_S8": 1, "PCM_16": 2, "PCM_24": 3}


class _Sequential(soundfile.SoundFile):
    """A file that soundfile does not seek in by itself: after each read it would seek to where the read ended, which decodes that
    frame of a FLAC, or that page of an Ogg, again: 0.14 of 0.74 ms for 1.5 s of FLAC.
    """

    def seekable(self) -> bool:
        return False


class SndFile:
    """An open file; the :class:`~stable_audio_tools.audio.decode.Decoder` made of libsndfile.

    Raises:
        AudioError: If the header lies about the length.
        soundfile.SoundFileError: If libsndfile cannot open or decode it: another decoder may.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._path = source_name(source)
        if not isinstance(source, str):
            source.seek(0)
        self._file = _Sequential(source)
        self._position = 0  # the next frame that a read returns
        self._safe_entry = self._file.frames
        try:
            self._check_promises()
        except BaseException:
            self._file.close()
            raise
        self.sample_rate: int = self._file.samplerate
        self.num_channels: int = self._file.channels
        self.format = f"{self._file.format}/{self._file.subtype}"

    def __enter__(self) -> SndFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._file.close()

    def count_frames(self) -> int:
        """The header's number of frames, proven by decoding the last one."""
        num_frames = self._file.frames
        if num_frames:
            self._seek(num_frames - 1)
            if len(self._next(1)) != 1:
                raise soundfile.SoundFileRuntimeError("the last frame cannot be read")
        return num_frames

    def read(self, start: int, num_frames: int | None) -> NDArray[np.float32]:
        """(C, T) samples from frame ``start`` on; T is smaller than ``num_frames`` only at the end of the file."""
        promised = self._file.frames
        stop = promised if num_frames is None else min(start + num_frames, promised)
        if start >= stop:
            return np.zeros((self.num_channels, 0), dtype=np.float32)
        held = min(start, self._safe_entry)
        self._seek(held)
        # In blocks, so that memory follows what is really there, not what the header says.
        blocks: deque[NDArray[np.float32]] = deque()
        while held < stop:
            block = self._next(min(_BLOCK_FRAMES, stop - held))
            if not len(block) and not held:
                raise soundfile.SoundFileRuntimeError("no frame can be read")
            if not len(block):
                raise broken_promise(self._path, promised, held)
            blocks.append(np.transpose(block[max(0, start - held) :]))
            held += len(block)
        return join_blocks(blocks, self.num_channels)

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """All samples, as consecutive (C, T) blocks."""
        for start in range(0, self._file.frames, _BLOCK_FRAMES):
            yield self.read(start, _BLOCK_FRAMES)

    def _seek(self, position: int) -> None:
        if position != self._position:
            self._position = self._file.seek(position)

    def _next(self, num_frames: int) -> NDArray[np.float32]:
        """(t, C) samples, fewer than asked for where the file ends."""
        block = np.asarray(self._file.read(num_frames, dtype="float32", always_2d=True), dtype=np.float32)
        self._position += len(block)
        return block

    def _check_promises(self) -> None:
        file, kind = self._file, self._file.format
        if file.frames >= _UNKNOWN_FRAMES:
            raise soundfile.SoundFileRuntimeError("the header does not state a length")
        if kind in ("WAV", "WAVEX", "AIFF"):
            shortage = iff_shortage(self._source)
            if shortage > 1:
                raise broken_promise(self._path, round(file.frames * shortage), file.frames)
        if kind == "FLAC":
            width = _FLAC_BYTES_PER_SAMPLE.get(file.subtype, 4)
            if flac_holds_more(self._source, num_frames=file.frames, num_channels=file.channels, bytes_per_sample=width):
                raise AudioError(f"{self._path}: header promises {file.frames} frames, the file holds more than that; {NEXT_STEP}")
        if kind == "OGG":
            end = ogg_end(self._source)
            self._safe_entry = max(0, end.last_page_start - _MAX_VORBIS_BLOCK)
            if end.is_chained:
                raise AudioError(f"{self._path}: holds several Ogg streams joined end to end, expected one; split or re-encode it")
