"""Tags: text that travels inside an audio file."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator, Mapping

import soundfile  # pyright: ignore[reportMissingTypeStubs]

from stable_audio_tools.errors import AudioError

_SOFTWARE = "stable-audio-tools"
_MAX_BYTES = 1_000_000
# RIFF INFO names; libsndfile calls its Vorbis comments the same.
_RIFF_NAMES = {
    "title": b"INAM",
    "copyright": b"ICOP",
    "software": b"ISFT",
    "artist": b"IART",
    "comment": b"ICMT",
    "date": b"ICRD",
    "album": b"IPRD",
    "tracknumber": b"ITRK",
    "genre": b"IGNR",
}


def make_tags(metadata: Mapping[str, str], *, path: str) -> dict[str, str]:
    """Tags that keep ``metadata``: all of it as JSON in the comment, a title for those who browse with a player, the software.

    The JSON is ASCII, which survives any reader; the title is ``metadata["title"]``, else the prompt.

    Args:
        metadata: May be empty.
        path: How messages call the file.

    Raises:
        AudioError: If a key or value is not a string, or all together are longer than 1 MB.

    >>> make_tags({"prompt": "dub techno", "seed": "42"}, path="out.wav")["comment"]
    '{"prompt": "dub techno", "seed": "42"}'
    """
    for key, value in metadata.items():
        if not isinstance(key, str) or not isinstance(value, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise AudioError(f"{path}: metadata {key!r}: expected strings, got {type(value).__name__}; use str() or json.dumps()")
    tags = {"software": _SOFTWARE}
    if metadata:
        tags["comment"] = json.dumps(dict(metadata))
    if len(tags.get("comment", "")) > _MAX_BYTES:
        raise AudioError(f"{path}: metadata takes {len(tags['comment'])} bytes, allowed are {_MAX_BYTES}; keep it in a file of its own")
    title = (metadata.get("title") or metadata.get("prompt", "")).replace("\0", " ")
    if title:
        tags["title"] = title.encode("utf-8", "replace").decode()  # half a surrogate pair is no UTF-8
    return tags


def write_comments(file: soundfile.SoundFile, tags: Mapping[str, str]) -> None:
    """Give ``tags`` to a FLAC or OGG file that is open for writing, before its first sample."""
    for name, text in tags.items():
        setattr(file, name, text)


def append_info(path: str | os.PathLike[str], tags: Mapping[str, str]) -> None:
    """Append ``tags`` to a finished WAV file, as a LIST chunk of type INFO.

    Not by libsndfile: it reads back no string above 2,033 bytes, and calls its own file broken when one is above 64 kB (1.2.2).
    """
    info = b"INFO"
    for name, text in tags.items():
        data = text.encode() + b"\0"
        info += struct.pack("<4sI", _RIFF_NAMES[name], len(data)) + data + b"\0" * (len(data) % 2)
    with open(path, "r+b") as file:
        end = file.seek(0, os.SEEK_END)
        file.write(b"\0" * (end % 2) + struct.pack("<4sI", b"LIST", len(info)) + info)
        riff_size = file.tell() - 8
        file.seek(4)
        file.write(struct.pack("<I", riff_size))


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """Give back what :func:`~stable_audio_tools.audio.io.save` was told to keep in a WAV, FLAC or OGG file.

    Returns:
        The mapping given to ``save``; of files made elsewhere, the tags they have: ``title``, ``artist``, ``comment`` ...

    Raises:
        AudioError: If the file cannot be opened.

    >>> import tempfile, torch
    >>> from stable_audio_tools.audio import save
    >>> path = tempfile.mkdtemp() + "/tagged.wav"
    >>> save(path, torch.zeros(1, 100), 44100, metadata={"prompt": "dub techno", "seed": "42"})
    >>> read_metadata(path)
    {'prompt': 'dub techno', 'seed': '42'}
    """
    try:
        with open(path, "rb") as file:
            is_wav = file.read(4) == b"RIFF"
        tags = _read_info(path) if is_wav else _read_comments(path)
    except (OSError, soundfile.SoundFileError) as error:
        raise AudioError(f"{os.fspath(path)}: tags cannot be read ({error}); expected a WAV, FLAC or OGG file") from error
    if not tags.get("software", "").startswith(_SOFTWARE):
        return tags
    try:
        return json.loads(tags.get("comment", "{}"))
    except ValueError:  # another program has replaced the comment
        return tags


def _read_comments(path: str | os.PathLike[str]) -> dict[str, str]:
    with soundfile.SoundFile(path) as file:
        found = {name: str(getattr(file, name)) for name in _RIFF_NAMES}
    return {name: text for name, text in found.items() if text}


def _read_info(path: str | os.PathLike[str]) -> dict[str, str]:
    names = {riff_name: name for name, riff_name in _RIFF_NAMES.items()}
    tags: dict[str, str] = {}
    for info in _info_chunks(path):
        at = 4
        while at + 8 <= len(info):
            riff_name, size = struct.unpack_from("<4sI", info, at)
            text = info[at + 8 : at + 8 + size].split(b"\0")[0]
            if riff_name in names and text:
                tags[names[riff_name]] = text.decode("utf-8", "replace")
            at += 8 + size + size % 2
    return tags


def _info_chunks(path: str | os.PathLike[str]) -> Iterator[bytes]:
    with open(path, "rb") as file:
        file.seek(12)
        while len(header := file.read(8)) == 8:
            name, size = struct.unpack("<4sI", header)
            after = file.tell() + size + size % 2
            if name == b"LIST" and file.read(4) == b"INFO":
                yield b"INFO" + file.read(min(size - 4, 2 * _MAX_BYTES))
            file.seek(after)
