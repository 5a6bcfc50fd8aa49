"""What an earlier run of packing left behind: the plan that it followed, and the shards that are finished."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from stable_audio_tools.data.shards.listing import MANIFEST
from stable_audio_tools.data.shards.storage import Storage
from stable_audio_tools.data.shards.tars import INDEX_SUFFIX, LENGTHS_SUFFIX, Sample, format_index, parse_index
from stable_audio_tools.data.store_facts import parse_journal
from stable_audio_tools.errors import DataError

PLAN = "pack.json"  # what an unfinished folder of shards is being made of


class Finished(NamedTuple):
    """A shard that is there, with all that lies beside it."""

    entry: dict[str, Any]
    """Of the manifest."""
    skipped: list[str]
    """Files that could not be read then, relative to the folder that is packed."""


def begin(storage: Storage, root: str, fingerprint: str, num_shards: int) -> dict[str, Finished]:
    """The shards that are there already, by name.

    Args:
        storage: Where they are.
        root: The folder of shards.
        fingerprint: Of what is packed, and how.
        num_shards: How many there will be.

    Raises:
        DataError: If the folder holds shards of other files, or is none.
    """
    if storage.is_local:
        if os.path.isfile(root):
            raise DataError(f"{root}: is a file; give a folder for the shards")
        os.makedirs(root, exist_ok=True)
        for scratch in Path(root).glob(".packing-*"):  # of a run that was killed
            shutil.rmtree(scratch, ignore_errors=True)
    found = storage.find(root)
    plan = storage.read_whole(f"{root}/{PLAN}")
    if plan is None:
        if any(link.endswith(".tar") for link in found):
            raise DataError(f"{root}: holds shards that were not packed here; give an empty folder")
        text = json.dumps({"fingerprint": fingerprint, "num_shards": num_shards}) + "\n"
        storage.write(f"{root}/{PLAN}", text.encode())
        return {}
    if json.loads(plan).get("fingerprint") != fingerprint:
        raise DataError(
            f"{root}: holds shards of other files, or packed with other options (or the files have changed since); empty it, or give "
            "another folder"
        )
    return {shard.entry["url"]: shard for link in found if (shard := _finished(storage, link, found)) is not None}


def _finished(storage: Storage, link: str, found: Mapping[str, int]) -> Finished | None:
    """A shard that has samples, and its lengths and its index beside it, which is written last."""
    stem = link.removesuffix(".tar")
    if stem == link or not {f"{stem}{INDEX_SUFFIX}", f"{stem}{LENGTHS_SUFFIX}"} <= found.keys():
        return None
    index_text, journal = (storage.read_whole(f"{stem}{suffix}") for suffix in (INDEX_SUFFIX, LENGTHS_SUFFIX))
    if index_text is None or journal is None:
        return None
    index = parse_index(index_text.decode(), found[link])
    if index is None or not index.samples:
        return None
    said = parse_journal(journal.decode(), f"{stem}{LENGTHS_SUFFIX}")
    name = link.rsplit("/", 1)[-1]
    return Finished(manifest_entry(name, len(index.samples), found[link]), [entry["path"] for entry in said if "skipped" in entry])


def manifest_entry(name: str, num_samples: int, size: int) -> dict[str, Any]:
    """What a manifest says of a shard."""
    return {"url": name, "nsamples": num_samples, "filesize": size}


def finish(storage: Storage, root: str, file: Path, samples: list[Sample], journal: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Move a shard to its place, with what lies beside it.

    Args:
        storage: Where it goes.
        root: The folder of shards.
        file: The shard, on this machine.
        samples: What it holds.
        journal: How long they are, and what is not among them.

    Returns:
        The manifest's entry.
    """
    text = format_index(samples)
    assert text is not None  # keys have no line breaks
    size, stem = file.stat().st_size, f"{root}/{file.stem}"
    storage.put(str(file), f"{stem}.tar")
    storage.write(f"{stem}{LENGTHS_SUFFIX}", "".join(json.dumps(entry) + "\n" for entry in journal).encode())
    storage.write(f"{stem}{INDEX_SUFFIX}", text.encode())  # the last: with it, a shard is finished
    return manifest_entry(file.name, len(samples), size)


def remove(storage: Storage, root: str, names: Iterable[str]) -> None:
    """Leave nothing of what was packed: the shards of these names, what lies beside them, and the plan."""
    beside = [name.removesuffix(".tar") + suffix for name in names for suffix in (INDEX_SUFFIX, LENGTHS_SUFFIX, ".tar")]
    for name in (*beside, MANIFEST, PLAN):  # the plan last, so that a run that is killed here is known
        with suppress(FileNotFoundError):
            storage.remove(f"{root}/{name}")
