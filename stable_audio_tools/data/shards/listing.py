"""Which shards a dataset names, and the index of each."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from stable_audio_tools.data.files import NUM_READERS
from stable_audio_tools.data.shards.reader import Shard, Span
from stable_audio_tools.data.shards.storage import Storage
from stable_audio_tools.data.shards.tars import INDEX_SUFFIX, LENGTHS_SUFFIX, Index, format_index, parse_index, scan
from stable_audio_tools.data.store_facts import JOURNAL, parse_journal
from stable_audio_tools.errors import DataError

logger = logging.getLogger(__name__)
MANIFEST = "index.json"  # in the form of the package webdataset: {"shardlist": [{"url", "nsamples", "filesize"}]}
_HEADER_BUFFER = 1 << 16
_Entries = dict[str, dict[str, Any]]  # of a journal, by the item's name


def expand_braces(pattern: str) -> list[str]:
    """What a shell would make of ``{000..012}`` and ``{a,b}``.

    >>> expand_braces("s3://music/{train,more}-{008..010}.tar")[2:4]
    ['s3://music/train-010.tar', 's3://music/more-008.tar']
    """
    parts = re.split(r"\{([^{}]*)\}", pattern)
    return ["".join(chosen) for chosen in itertools.product(*(_choices(part) if index % 2 else [part] for index, part in enumerate(parts)))]


def _choices(braced: str) -> list[str]:
    numbers = re.fullmatch(r"(\d+)\.\.(\d+)", braced)
    if numbers is None:
        return braced.split(",")
    first, last = numbers.groups()
    return [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]


def list_shards(url: str, storage: Storage) -> tuple[list[Shard], Mapping[str, int]]:
    """The shards that a URL stands for, sorted: a folder of them, one, several with ``{000..099}``, or a manifest (``index.json``).

    Returns:
        The shards, and how many samples a manifest says each has, by URL.

    Raises:
        DataError: If there are none, or one that the manifest names is missing.
    """
    if url.endswith(".json"):
        named = _read_manifest(url, storage)
        return _stated([*named], {}, storage), {link: count for link, (count, _) in named.items() if count is not None}
    if url.endswith(".tar"):
        return _stated(expand_braces(url), {}, storage), {}
    found = storage.find(url)
    tars = {link: size for link, size in found.items() if link.endswith(".tar") and not link.rsplit("/", 1)[-1].startswith(".")}
    manifest = f"{url.rstrip('/')}/{MANIFEST}"
    named = _read_manifest(manifest, storage, missing_is_fine=True) if not found or storage.link(storage.path(manifest)) in found else {}
    if not tars and not named:
        packed = [link for link in found if re.search(r"\.(tar\.\w+|tgz)$", link)]
        hint = f"; {packed[0]} is compressed: unpack it to a plain .tar" if packed else "; write a folder of .tar files, or one of them"
        raise DataError(f"{url}: no shards (.tar) found{hint}")
    if absent := [link for link in named if tars and link not in tars]:
        raise DataError(f"{manifest}: names {len(absent)} shards that are not there, first {absent[0]}; upload them again, or delete it")
    if named and (more := sorted(set(tars) - set(named))):
        logger.warning("%s does not name %d of the shards beside it, which are used nevertheless: %s", manifest, len(more), more[0])
    counts = {link: count for link, (count, _) in named.items() if count is not None}
    return _stated(sorted(tars or named), tars, storage), counts


def _stated(links: Sequence[str], sizes: Mapping[str, int], storage: Storage) -> list[Shard]:
    """Shards with their sizes, asked for where they are not known."""

    def shard(link: str) -> Shard:
        link = storage.link(storage.path(link))
        size = sizes.get(link, -1)
        return Shard(link, storage.size(link) if size < 0 else size, storage)

    with ThreadPoolExecutor(NUM_READERS) as readers:
        return list(readers.map(shard, links))


def _read_manifest(url: str, storage: Storage, *, missing_is_fine: bool = False) -> dict[str, tuple[int | None, int | None]]:
    data = storage.read_whole(url)
    if data is None and missing_is_fine:
        return {}
    if data is None:
        raise DataError(f"{url}: no such file")
    try:
        listed = json.loads(data)["shardlist"]
        folder = url.rsplit("/", 1)[0]
        return {_beside(folder, entry["url"], storage): (entry.get("nsamples"), entry.get("filesize")) for entry in listed}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if missing_is_fine:
            return {}  # a file of the same name that is about something else
        raise DataError(f'{url}: is no list of shards; expected {{"shardlist": [{{"url": "0000.tar", "nsamples": 100}}]}}') from error


def _beside(folder: str, name: str, storage: Storage) -> str:
    return storage.link(storage.path(name if is_whole(name) else f"{folder}/{name}"))


def is_whole(name: str) -> bool:
    r"""Whether a name says by itself where something is, on any system; others are relative to what names them.

    >>> [is_whole(name) for name in ("s3://bucket/0.tar", "/data/0.tar", r"C:\data\0.tar", "//host/share/0.tar", "0.tar", "c/0.tar")]
    [True, True, True, True, False, False]
    """
    return "://" in name or PurePosixPath(name).is_absolute() or PureWindowsPath(name).is_absolute()


def index_shards(shards: Sequence[Shard]) -> Iterator[Index]:
    """The index of each: from the ``.idx`` file beside it, as found on an earlier run, or from reading its headers.

    Raises:
        DataError: If one is no tar file or cannot be read.
    """
    with ThreadPoolExecutor(NUM_READERS) as readers:
        yield from readers.map(_index, shards)


def _index(shard: Shard) -> Index:
    beside = shard.storage.read_whole(f"{shard.url.removesuffix('.tar')}{INDEX_SUFFIX}")
    index = parse_index(beside.decode("utf-8", "replace"), shard.size) if beside is not None else None
    if beside is not None and index is None:
        logger.warning("%s: the %s file beside it does not fit it, and is not used", shard.url, INDEX_SUFFIX)
    if index is None and shard.storage.is_local:
        with open(shard.url, "rb") as file:
            return scan(file, shard.size, shard.url)
    return index or _index_from_afar(shard)


def _index_from_afar(shard: Shard) -> Index:
    """Headers take a request each, so what they say is kept on this machine."""
    kept = _kept_file(shard)
    try:
        index = parse_index(kept.read_text(encoding="utf-8"), shard.size)
    except (OSError, UnicodeDecodeError):
        index = None
    if index is not None:
        return index
    logger.info("%s: has no %s file; reading its headers", shard.url, INDEX_SUFFIX)
    span = Span(lambda start, stop: shard.storage.read(shard.url, start, stop), 0, shard.size, shard.url)
    try:
        index = scan(io.BufferedReader(span, _HEADER_BUFFER), shard.size, shard.url)
    except DataError:
        if span.failure is None:
            raise
        raise span.failure from None
    if span.failure is not None:
        raise span.failure
    text = format_index(index.samples)
    if text is not None and not index.broken:
        _keep(kept, text)
    return index


def read_lengths(shards: Sequence[Shard]) -> Iterator[Mapping[str, Mapping[str, Any]]]:
    """What is written down of how long the samples of each shard are, by key: beside it, or in the journal of pre-encoding.

    Raises:
        DataError: If that holds something else.
    """
    with ThreadPoolExecutor(NUM_READERS) as readers:
        beside = list(readers.map(lambda shard: _entries(f"{shard.url.removesuffix('.tar')}{LENGTHS_SUFFIX}", shard.storage), shards))
        folders = {_folder(shard): shard.storage for shard, found in zip(shards, beside, strict=True) if found is None}
        found = readers.map(lambda item: _entries(f"{item[0]}/{JOURNAL}", item[1]), folders.items())
        journals = dict(zip(folders, found, strict=True))
    stores = _by_store(journals, folders)
    for shard, entries in zip(shards, beside, strict=True):
        yield stores[_store(_folder(shard))] if entries is None else entries


def _folder(shard: Shard) -> str:
    return shard.url.rsplit("/", 1)[0]


def _store(folder: str) -> str:
    """The store that a folder is of: ``sat pre-encode`` has a folder of each process in it, called by a number."""
    above, _, name = folder.rpartition("/")
    return above if name.isdigit() else folder


def _by_store(journals: dict[str, _Entries | None], storages: Mapping[str, Storage]) -> dict[str, _Entries]:
    """The journals of each store as one. A run that goes on with other processes says in their journals what those before it wrote."""
    above = {_store(folder): storage for folder, storage in storages.items() if _store(folder) != folder}
    for store, storage in above.items():
        for number in itertools.count():  # until there is none: also of processes that have written no shard
            folder = f"{store}/{number}"
            if folder not in journals:
                journals[folder] = _entries(f"{folder}/{JOURNAL}", storage)
                if journals[folder] is None:
                    break
    stores: dict[str, _Entries] = {}
    for folder, entries in journals.items():
        stores.setdefault(_store(folder), {}).update(entries or {})
    return stores


def _entries(url: str, storage: Storage) -> _Entries | None:
    data = storage.read_whole(url)
    if data is None:
        return None
    return {str(entry["id"]): entry for entry in parse_journal(data.decode("utf-8", "replace"), url) if "id" in entry and "frames" in entry}


def _kept_file(shard: Shard) -> Path:
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    endpoint = shard.storage.options.get("endpoint_url", "")
    name = hashlib.sha256(f"{endpoint} {shard.url} {shard.size}".encode()).hexdigest()
    return root / "stable-audio-tools" / "shards" / f"{name}{INDEX_SUFFIX}"


def _keep(file: Path, text: str) -> None:
    temporary = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, file)
    except OSError as error:  # a read-only home: the next run reads the headers again
        logger.debug("%s: cannot be written: %s", file, error)


def manifest_text(shards: Iterable[Mapping[str, Any]], **facts: Any) -> str:
    """A manifest, in the form that the package webdataset reads too.

    Args:
        shards: ``url`` (relative), ``nsamples``, ``filesize`` of each.
        **facts: Whatever else is worth keeping.
    """
    listed = list(shards)
    head = {"__kind__": "wids-shard-index-v1", "wids_version": 1, "num_samples": sum(shard["nsamples"] for shard in listed)}
    return json.dumps({**head, **facts, "shardlist": listed}, indent=1) + "\n"
