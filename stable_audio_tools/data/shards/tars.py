"""What a shard holds, and where in it: an index of a tar file, so that any sample can be read without what is before it.

The index is why this does not stream tar files as the package ``webdataset`` does. With it, the samples of all shards can be dealt out
exactly (each once per pass, equally many to every process), a run can go on at any sample, a broken connection loses nothing, and only the
part of a sample that a crop needs is read. The files are ordinary WebDataset shards, and the text form of the index is the one that
NVIDIA DALI's ``wds2idx`` writes: ``v1.2 COUNT``, then a line ``EXT OFFSET SIZE NAME ...`` for each sample.
"""

from __future__ import annotations

import logging
import re
import tarfile
from collections.abc import Iterable, Sequence
from typing import BinaryIO, NamedTuple

from stable_audio_tools.errors import DataError

logger = logging.getLogger(__name__)
INDEX_SUFFIX = ".idx"
LENGTHS_SUFFIX = ".jsonl"  # how long the samples are, in the form of a journal of pre-encoding
_VERSION = "v1.2"
_BLOCK = 512
_LARGEST_TAIL = 2 * _BLOCK + 10240  # two blocks of zeros, then up to a record of them
_NAME = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)")


class Member(NamedTuple):
    """One file of a sample."""

    ext: str
    """What follows the first dot of its name, in lower case: ``flac``, ``json``, ``latent.npy``."""
    offset: int
    """Of its first byte in the shard."""
    size: int
    name: str


class Sample(NamedTuple):
    """Files in a row whose names agree up to the first dot."""

    key: str
    members: tuple[Member, ...]


class Index(NamedTuple):
    """The samples of a shard, in order."""

    samples: list[Sample]
    broken: str = ""
    """Why there may be fewer than there were, if the shard is cut off or damaged."""


def split_name(name: str) -> tuple[str, str] | None:
    """Key and extension of a member as WebDataset has them; None if it belongs to no sample.

    >>> split_name("./drums/kick.take2.WAV"), split_name("drums/.hidden"), split_name("README")
    (('drums/kick', 'take2.wav'), None, None)
    """
    match = _NAME.fullmatch(name.removeprefix("./"))
    return (match.group(1), match.group(2).lower()) if match else None


def scan(file: BinaryIO, size: int, name: str) -> Index:
    """Read the headers of a tar file; what the samples hold is skipped.

    Args:
        file: The shard.
        size: Its bytes.
        name: What messages call it.

    Raises:
        DataError: If it is no tar file, or names a file of a sample twice.
    """
    members: list[Member] = []
    broken, end = "", 0
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for info in tar:
                if info.offset_data + info.size > size:
                    broken = f"cut off in {info.name}: {size} bytes of at least {info.offset_data + info.size}"
                    break
                if info.isreg():
                    members.append(Member("", info.offset_data, info.size, info.name))
            end = tar.offset
    except tarfile.TarError as error:
        if not members:
            raise DataError(f"{name}: is no tar file ({error}){_compressed(file)}") from error
        broken = f"damaged or cut off after {members[-1].name} ({error})"
    if not broken:
        file.seek(end)
        mark = file.read(_BLOCK)
        if len(mark) < _BLOCK or any(mark):
            broken = f"{'holds no tar header' if mark else 'ends without an end mark'} at byte {end}: damaged, or cut off between files"
    return Index(_grouped(members, name), broken)


def _compressed(file: BinaryIO) -> str:
    file.seek(0)
    packed = file.read(4).startswith((b"\x1f\x8b", b"BZh", b"\xfd7zX", b"\x28\xb5\x2f\xfd"))
    return "; it is compressed, which gains nothing with audio and allows no random access: unpack it to a plain .tar" if packed else ""


def _grouped(members: Iterable[Member], name: str) -> list[Sample]:
    samples: list[tuple[str, list[Member]]] = []
    for member in members:
        parts = split_name(member.name)
        if parts is None:
            continue
        key, ext = parts
        if not samples or samples[-1][0] != key:
            samples.append((key, []))
        if any(other.ext == ext for other in samples[-1][1]):
            raise DataError(f"{name}: names {member.name!r} twice in one sample; the files of a sample have different extensions")
        samples[-1][1].append(member._replace(ext=ext))
    return [Sample(key, tuple(held)) for key, held in samples]


def format_index(samples: Sequence[Sample]) -> str | None:
    """The index as text; None if names in it have line breaks, or extensions spaces, for which the format has no notation."""
    lines = [f"{_VERSION} {len(samples)}"]
    for sample in samples:
        for member in sample.members:
            if "\n" in member.name or "\r" in member.name or " " in member.ext:
                return None
        lines.append(" ".join(f"{member.ext} {member.offset} {member.size} {member.name}" for member in sample.members))
    return "\n".join(lines) + "\n"


def parse_index(text: str, size: int) -> Index | None:
    """The index from its text; None if it is of another version, or cannot be about a shard of that size.

    Args:
        text: From `format_index`, or ``wds2idx``.
        size: Bytes of the shard.
    """
    first, *lines = text.split("\n")
    version, _, count = first.partition(" ")
    lines = [line for line in lines if line]
    if version != _VERSION or count != str(len(lines)):
        return None
    try:
        samples = [_parse_line(line) for line in lines]
    except (ValueError, IndexError):
        return None
    end = max((member.offset + member.size for sample in samples for member in sample.members), default=0)
    tail = size - -(-end // _BLOCK) * _BLOCK
    # Files that belong to no sample may follow the last one, but seldom do: then the shard is read instead.
    return Index(samples) if _BLOCK <= tail <= _LARGEST_TAIL else None


def _parse_line(line: str) -> Sample:
    words, members, at = line.split(" "), [], 0
    key = ""
    while at < len(words):
        ext, offset, size = words[at], int(words[at + 1]), int(words[at + 2])
        stop = at + 4  # a name may have spaces; it ends with its extension
        while not " ".join(words[at + 3 : stop]).lower().endswith(f".{ext}"):
            stop += 1
            if stop > len(words):
                raise ValueError(line)
        name = " ".join(words[at + 3 : stop])
        parts = split_name(name)
        if parts is None or offset < _BLOCK or size < 0:
            raise ValueError(line)
        key = parts[0]
        members.append(Member(ext, offset, size, name))
        at = stop
    return Sample(key, tuple(members))


def is_at(header: bytes, member: Member) -> bool:
    """Whether the tar header before a member is about a file of its size; an index of another tar file would point anywhere."""
    try:
        return tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape").size == member.size
    except tarfile.TarError:
        return False


HEADER_BYTES = _BLOCK
