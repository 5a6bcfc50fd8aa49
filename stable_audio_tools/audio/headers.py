"""Headers of audio files: what they promise about the length, read without a decoder.

Decoders believe or quietly correct these numbers: libsndfile shortens a cut-off WAV without a word, and stops a FLAC at the length
its header states, however much follows. A dataset wants to know.
"""

from __future__ import annotations

import os
import re
import struct
from typing import NamedTuple

from stable_audio_tools.audio.source import Source, count_bytes, opened
from stable_audio_tools.errors import AudioError

NEXT_STEP = "download or export it again, or leave it out of the dataset"

# Sizes from here up mean "unknown, read to the end": ffmpeg, sox and recorders that were cut off write 0xFFFFFFFF, 0x7FFFF000 ...
_STREAMING_SIZE = 0x7FFF0000
# Some writers count the 44 header bytes as audio; no listener misses 64 bytes.
_IFF_SLACK_BYTES = 64
# A FLAC frame can exceed its PCM by its own header and checksum: 0.1 % at the usual 4,096 samples, 20 % at the odd 32.
_FLAC_OVERHEAD = 1.2
_FLAC_SLACK_BYTES = 4096
_MAX_MP3_FRAME_BYTES = 3000
_OGG_EDGE_BYTES = 1 << 17


def broken_promise(path: str, promised: int, held: int, reason: str = "") -> AudioError:
    """The one message for a header that disagrees with its file; lengths in frames (samples per channel)."""
    return AudioError(f"{path}: header promises {promised} frames, the file holds {held}{reason}; {NEXT_STEP}")


def is_broken_lossy_promise(promised: int, held: int) -> bool:
    """Whether a lossy file is shorter than promised by more than codec delay and counting habits explain.

    Encoders differ by the priming and padding frames and by whether the first frame (the one with the header) counts:
    4,608 frames, which are four MP3 frames or two AAC frames with SBR, and one percent are allowed.

    >>> is_broken_lossy_promise(441_000, 438_000), is_broken_lossy_promise(441_000, 220_500)
    (False, True)
    """
    return promised - held > 4608 + promised // 100


def iff_shortage(source: Source) -> float:
    """Promised over held bytes of the audio chunk of a WAV or AIFF file; 1.0 when the promise is kept or cannot be read.

    Args:
        source: A file that starts with ``RIFF``, ``RIFX`` or ``FORM``.
    """
    file_bytes = count_bytes(source)
    with opened(source) as file:
        order = "<" if file.read(12)[:4] == b"RIFF" else ">"
        while len(header := file.read(8)) == 8:
            name, size = struct.unpack(f"{order}4sI", header)
            if name in (b"data", b"SSND"):
                held = file_bytes - file.tell()
                is_streamed = size == 0 or size >= _STREAMING_SIZE
                return 1.0 if is_streamed or held <= 0 or size - held <= _IFF_SLACK_BYTES else size / held
            file.seek(size + size % 2, os.SEEK_CUR)
    return 1.0


def flac_holds_more(source: Source, *, num_frames: int, num_channels: int, bytes_per_sample: int) -> bool:
    """Whether a FLAC is plainly longer than its header says: more bytes of audio than the promised frames take as PCM.

    Args:
        source: A file that starts with ``fLaC``.
        num_frames: Promised.
        num_channels: Of the file.
        bytes_per_sample: Of PCM with the bit depth of the file.
    """
    with opened(source) as file:
        file.seek(4)
        is_last = False
        while not is_last and len(header := file.read(4)) == 4:
            is_last = bool(header[0] & 0x80)
            file.seek(int.from_bytes(header[1:], "big"), os.SEEK_CUR)  # pictures live here and may dwarf the audio
        audio_bytes = count_bytes(source) - file.tell()
    return audio_bytes > num_frames * num_channels * bytes_per_sample * _FLAC_OVERHEAD + _FLAC_SLACK_BYTES


def xing_frames(source: Source, *, position: int, num_bytes: int) -> int | None:
    """Number of MP3 frames stated by the Xing, Info or VBRI header around the first packet; None if there is none.

    Args:
        source: An MP3 file.
        position: Byte offset of the first packet, which follows the header or, behind garbage, is the header.
        num_bytes: Bytes of the first packet.
    """
    with opened(source) as file:
        first = max(0, position - _MAX_MP3_FRAME_BYTES)
        file.seek(first)
        data = file.read(position - first + num_bytes)
    # The tag sits behind the 4 header bytes and the side information of MPEG 1 / 2, mono / stereo.
    for tag, offsets, field in ((b"Xing", (36, 21, 13), 8), (b"Info", (36, 21, 13), 8), (b"VBRI", (36,), 14)):
        at = data.rfind(tag)
        is_tag = at >= 0 and any(at >= offset and _is_mp3_sync(data[at - offset : at - offset + 2]) for offset in offsets)
        if is_tag and (tag == b"VBRI" or (data[at + 7 : at + 8] and data[at + 7] & 1)):
            return int.from_bytes(data[at + field : at + field + 4], "big") or None
    return None


class OggEnd(NamedTuple):
    """What the last pages of an Ogg file tell."""

    is_chained: bool
    """Whether it belongs to another stream than the file began with: streams were joined, of which decoders read one."""
    last_page_start: int
    """Frames that are complete before the last page; 0 if that cannot be told."""


def ogg_end(source: Source) -> OggEnd:
    """Look at the first and last pages of an Ogg file."""
    with opened(source) as file:
        head = file.read(_OGG_EDGE_BYTES)
        file.seek(max(0, count_bytes(source) - _OGG_EDGE_BYTES))
        tail = file.read()
    serials: set[bytes] = set()
    page = 0
    while head[page : page + 4] == b"OggS" and len(head) > page + 27 and head[page + 5] & 2:  # 2: a stream begins here
        serials.add(head[page + 14 : page + 18])
        num_segments = head[page + 26]
        page += 27 + num_segments + sum(head[page + 27 : page + 27 + num_segments])
    pages = [at.start() for at in re.finditer(rb"OggS\0", tail) if at.start() + 27 <= len(tail)]
    granules = [int.from_bytes(tail[at + 6 : at + 14], "little", signed=True) for at in pages[:-1]]  # -1: no packet ends there
    is_chained = bool(pages) and tail[pages[-1] + 14 : pages[-1] + 18] not in serials
    return OggEnd(is_chained, max(granules, default=0))


def _is_mp3_sync(two_bytes: bytes) -> bool:
    return len(two_bytes) == 2 and two_bytes[0] == 0xFF and two_bytes[1] & 0xE0 == 0xE0
