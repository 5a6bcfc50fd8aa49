"""Making shards of a folder: audio with its metadata, or pre-encoded latents."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import random
import re
import shutil
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from stable_audio_tools.data.files import refuse_no_folder
from stable_audio_tools.data.latent_file import UnreadableError
from stable_audio_tools.data.progress import FilesProgress
from stable_audio_tools.data.shards.listing import MANIFEST, manifest_text
from stable_audio_tools.data.shards.packed import begin, finish, remove
from stable_audio_tools.data.shards.sources import AudioSource, Content, LatentSource
from stable_audio_tools.data.shards.storage import Storage
from stable_audio_tools.data.shards.tars import scan
from stable_audio_tools.errors import AudioError, DataError

logger = logging.getLogger(__name__)


class PackSource(Protocol):
    """A folder, as files that become one sample each."""

    folder: Path
    paths: Sequence[Path]

    def content(self, path: Path) -> Content | None:
        """What a sample of the file holds; None leaves the file out. Raises AudioError or UnreadableError if it cannot be read."""
        ...

    def extras(self) -> dict[str, Path]:
        """Files that belong to all samples: name -> file."""
        ...


@dataclass(frozen=True)
class PackOptions:
    """How to pack.

    Attributes:
        shard_bytes: Size that a shard grows to, in bytes of audio or latents.
        shard_samples: Most samples in a shard; None has no limit.
        num_jobs: Shards written at a time.
        seed: Of the order of files in shards; None keeps them sorted by path.
        caption: Caption of files that have no other.
        captions_file: A CSV table ``path,caption``.
        custom_metadata_module: A Python file with ``get_custom_metadata(info, audio)``, called with the whole audio of each file.
        filelist_path: A list of the files to pack, relative to the folder; None is ``filelist.txt`` in it, or all files.
        storage_options: For fsspec, to open ``out``.
    """

    shard_bytes: int = 500_000_000
    shard_samples: int | None = None
    num_jobs: int = 4
    seed: int | None = 0
    caption: str | None = None
    captions_file: Path | None = None
    custom_metadata_module: Path | None = None
    filelist_path: Path | None = None
    storage_options: Mapping[str, Any] | None = None


class PackResult(NamedTuple):
    """What was made."""

    num_shards: int
    num_samples: int
    num_bytes: int
    num_kept: int
    """Shards that an earlier, interrupted run had written."""
    num_left_out: int
    """Files that could not be read, or that the metadata module rejected."""


class _Shard(NamedTuple):
    name: str
    files: list[tuple[str, Path]]
    """Key of the sample, and its file."""


def pack(
    folder: Path, out: str, options: PackOptions | None = None, *, on_progress: Callable[[FilesProgress], None] | None = None
) -> PackResult:
    """Write shards of a folder. A run that was interrupted goes on where it was: finished shards stay, and nothing is half-written.

    Args:
        folder: A folder of audio files, or one that ``sat pre-encode`` wrote.
        out: A folder, or a URL of one.
        options: How to pack.
        on_progress: Called after every file, by one thread at a time; after the last one of a shard when that is in its place.

    Raises:
        DataError: If there is nothing to pack, no file can be used, or ``out`` holds something else.
        MissingExtraError: If the package for such URLs is not installed.
    """
    options = options or PackOptions()
    source = _source(folder, options)
    shards = _plan(source, options)
    fingerprint = _fingerprint(source, options)
    storage = Storage(out, options.storage_options)
    root = storage.link(storage.path(out)).rstrip("/")
    found = begin(storage, root, fingerprint, len(shards))
    done = {name: shard.entry for name, shard in found.items() if not _has_mended(source, shard.skipped)}
    num_kept = len(done)
    if done:
        logger.info("%s: %d of %d shards are there already", out, len(done), len(shards))
    with tempfile.TemporaryDirectory(prefix=".packing-", dir=root if storage.is_local else None) as scratch:
        counter = _Counter(shards, done, on_progress)

        def write(shard: _Shard) -> dict[str, Any]:
            return done.get(shard.name) or _write(shard, source, storage, root, counter, Path(scratch))

        with ThreadPoolExecutor(options.num_jobs) as writers:
            entries = list(writers.map(write, shards))
        num_samples = sum(entry["nsamples"] for entry in entries)
        if not num_samples:
            remove(storage, root, [shard.name for shard in shards])
            raise DataError(f"{folder}: none of its {len(source.paths)} files can be used, as the messages above say; nothing is packed")
        for name, file in source.extras().items():
            copy = Path(scratch) / "copy"
            shutil.copyfile(file, copy)
            storage.put(str(copy), f"{root}/{name}")
    storage.write(f"{root}/{MANIFEST}", manifest_text(entries, fingerprint=fingerprint).encode())
    left_out = sum(len(shard.files) for shard in shards) - num_samples
    return PackResult(len(entries), num_samples, sum(entry["filesize"] for entry in entries), num_kept, left_out)


def _source(folder: Path, options: PackOptions) -> PackSource:
    refuse_no_folder(folder, "expected a folder of audio files, or of latents")
    if not LatentSource.is_one(folder):
        return AudioSource(folder, options.caption, options.captions_file, options.custom_metadata_module, options.filelist_path)
    if options.caption or options.captions_file or options.custom_metadata_module:
        raise DataError(
            f"{folder}: holds pre-encoded latents, whose metadata is in their .json files; captions and metadata modules are for folders "
            "of audio"
        )
    return LatentSource(folder, options.filelist_path)


def _plan(source: PackSource, options: PackOptions) -> list[_Shard]:
    paths = sorted(source.paths)
    if options.seed is not None:
        random.Random(options.seed).shuffle(paths)
    groups: list[list[tuple[str, Path]]] = [[]]
    held, keys = 0, set[str]()
    for path in paths:
        size = _state(path)[0]
        is_full = held + size > options.shard_bytes or len(groups[-1]) == options.shard_samples
        if groups[-1] and is_full:
            groups.append([])
            held = 0
        groups[-1].append((_key(path.relative_to(source.folder), keys), path))
        held += size
    width = max(5, len(str(len(groups))))
    return [_Shard(f"{number:0{width}}.tar", files) for number, files in enumerate(groups)]


def _key(relpath: Path, taken: set[str]) -> str:
    """A name for a sample. WebDataset ends it at the first dot; and many tools cannot have spaces in it."""
    key = wanted = re.sub(r"[.\s]", "_", relpath.with_suffix("").as_posix())
    number = 1
    while key in taken:
        number += 1
        key = f"{wanted}_{number}"
    taken.add(key)
    return key


def _fingerprint(source: PackSource, options: PackOptions) -> str:
    """What a folder of shards is made of, so that a run never goes on with shards of other files."""
    digest = hashlib.sha256(f"{options.shard_bytes} {options.shard_samples} {options.seed} {options.caption}".encode())
    for table in (options.captions_file, options.custom_metadata_module):
        digest.update(table.read_bytes() if table is not None else b"-")
    for path in sorted(source.paths):
        size, time_ns = _state(path)
        digest.update(f"{path.relative_to(source.folder).as_posix()} {size} {time_ns}\n".encode())
    return digest.hexdigest()


def _state(path: Path) -> tuple[int, int]:
    """Size and time of a file; zeros if it is not there, as where a link or a list names it: it is left out when its turn comes."""
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


class _Counter:
    """Counts the files that several threads pack."""

    def __init__(self, shards: Sequence[_Shard], done: Mapping[str, Any], on_progress: Callable[[FilesProgress], None] | None) -> None:
        self._num_files = sum(len(shard.files) for shard in shards)
        self._num_kept = sum(len(shard.files) for shard in shards if shard.name in done)
        self._num_read = self._num_bytes = 0
        self._started = time.monotonic()
        self._on_progress = on_progress
        self._lock = threading.Lock()

    def add(self, path: Path) -> None:
        """One more."""
        if self._on_progress is None:
            return
        with self._lock:
            self._num_read += 1
            self._num_bytes += _state(path)[0]
            num_done, seconds = self._num_kept + self._num_read, time.monotonic() - self._started
            self._on_progress(FilesProgress(num_done, self._num_files, self._num_read, seconds, self._num_bytes))


def _has_mended(source: PackSource, skipped: Sequence[str]) -> bool:
    """Whether one of the files that could not be read can be read now, as after a failure of a disk or a network."""
    for name in skipped:
        with suppress(AudioError, UnreadableError):
            if source.content(source.folder / name) is not None:
                return True
    return False


def _write(shard: _Shard, source: PackSource, storage: Storage, root: str, counter: _Counter, scratch: Path) -> dict[str, Any]:
    file = scratch / shard.name
    journal: list[dict[str, Any]] = []
    with tarfile.open(file, "w", format=tarfile.PAX_FORMAT) as tar:
        for number, (key, path) in enumerate(shard.files):
            if number:
                counter.add(shard.files[number - 1][1])
            try:
                content = source.content(path)
            except (AudioError, UnreadableError) as error:
                logger.warning("left out: %s", error)
                journal.append({"path": path.relative_to(source.folder).as_posix(), "skipped": str(error)})
                continue
            if content is None:
                continue
            journal.append({"id": key, **content.length})
            for ext, member in content.members.items():
                _add(tar, f"{key}.{ext}", member)
    with open(file, "rb") as opened:
        samples = scan(opened, file.stat().st_size, shard.name).samples
    entry = finish(storage, root, file, samples, journal)
    counter.add(shard.files[-1][1])
    return entry


def _add(tar: tarfile.TarFile, name: str, content: bytes | Path) -> None:
    info = tarfile.TarInfo(name)  # of no date and nobody: the same files make the same shards
    if isinstance(content, bytes):
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
        return
    with open(content, "rb") as file:
        info.size = os.fstat(file.fileno()).st_size
        tar.addfile(info, file)
