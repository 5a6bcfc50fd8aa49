"""Writing a store so that a process may be killed at any moment: whole files only, each item once, and a journal of what is done.

An item is done when its journal says so, or when all of its files are there: they are written to temporary files and renamed, the JSON file
last. What a killed process wrote without saying so is found when the next one begins.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from stable_audio_tools.checkpoint import atomic_path
from stable_audio_tools.data.latent_file import TENSOR, real_frames
from stable_audio_tools.data.latent_store import read_journal
from stable_audio_tools.data.shards.prompts import stored
from stable_audio_tools.data.store_facts import JOURNAL

Format = Literal["npy", "safetensors", "wds"]
MAX_WAITING = 64  # items that wait to be written


class ItemId(NamedTuple):
    """Where an item stands in the work: the group that it is encoded in, and its place there."""

    group: int
    place: int

    def name(self, rank: int) -> str:
        """The name of its files. Unique without the rank, so that work can go on with another number of processes."""
        return f"{rank:03d}{self}"

    def __str__(self) -> str:
        return f"{self.group:06d}{self.place:04d}"


class Done:
    """What is done, by any process so far.

    Args:
        folder: The store.
        format: Of its files.
    """

    def __init__(self, folder: Path, format: Format) -> None:  # noqa: A002
        self.entries: dict[str, dict[str, Any]] = {}  # str(ItemId) -> journal entry
        self.unsaid: dict[str, dict[str, Any]] = {}  # the same, of items that no journal knows
        self.halves: dict[str, Path] = {}  # the same, of those whose JSON file is not there yet -> their latents
        known: set[str] = set()  # tar files of which every item is in a journal
        for journal in sorted(folder.glob(f"*/{JOURNAL}")):
            entries = read_journal(journal)
            self.entries |= {entry["item"]: entry for entry in entries if "item" in entry}
            known |= {entry["shard"] for entry in entries if "shard" in entry}
        for path in sorted(folder.glob("[0-9]*/*.tar" if format == "wds" else "[0-9]*/*.json")):
            if format == "wds":
                self._look_into(path, known)
            elif path.stem[3:] not in self.entries and path.with_suffix(f".{format}").is_file():
                self._found(path.stem, json.loads(path.read_text(encoding="utf-8")))

        for path in folder.glob(f"[0-9]*/[0-9]*.{format}") if format != "wds" else ():
            if path.stem[3:] not in self.entries:
                self.halves[path.stem[3:]] = path

    def _look_into(self, shard: Path, known: set[str]) -> None:
        if shard.stem in known:
            return
        with tarfile.open(shard) as tar:
            for member in tar.getmembers():
                if member.name.endswith(".json") and member.name[3:-5] not in self.entries:
                    stream = tar.extractfile(member)
                    assert stream is not None
                    self._found(member.name.removesuffix(".json"), json.loads(stream.read()))

    def _found(self, name: str, metadata: Mapping[str, Any]) -> None:
        entry = journal_entry(name[3:], name, metadata, real_frames(metadata["padding_mask"]) or 0)
        self.entries[name[3:]] = self.unsaid[name[3:]] = entry

    def __contains__(self, item: ItemId) -> bool:
        return str(item) in self.entries


def journal_entry(item: str, name: str, metadata: Mapping[str, Any], frames: int) -> dict[str, Any]:
    """What a journal says of one item that was written."""
    about = {key: metadata[key] for key in ("relpath", "seconds_total") if key in metadata}
    return {"item": item, "id": name, "frames": frames, **about}


class StoreWriter:
    """Writes the items of one process, in another thread, so that the encoder does not wait for the disk.

    Args:
        folder: The store.
        rank: Of this process; names its folder.
        format: ``npy`` or ``safetensors``: one file per item; ``wds``: one tar file per group of items.
        done: What is done; items that are will not be written.
    """

    def __init__(self, folder: Path, rank: int, format: Format, done: Done) -> None:  # noqa: A002
        self.folder = folder / str(rank)
        self.rank = rank
        self.format: Format = format
        self.done = done
        self.folder.mkdir(parents=True, exist_ok=True)
        for half in self.folder.glob(".*.tmp"):  # of a process that was killed
            half.unlink()
        self._journal = self._open_journal()
        self._shard: list[tuple[str, bytes, dict[str, Any]]] = []  # name in the tar file, content, journal entry
        self._thread = ThreadPoolExecutor(1)
        self._waiting: list[Future[None]] = []

    def _open_journal(self) -> int:
        """Open for appending, without the half of a line that a killed process may have left."""
        path = self.folder / JOURNAL
        if path.is_file():
            text = path.read_bytes()
            whole = text.rfind(b"\n") + 1
            if whole != len(text):
                os.truncate(path, whole)
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)

    def say(self, entry: Mapping[str, Any]) -> None:
        """Add to the journal."""
        os.write(self._journal, (json.dumps(entry, ensure_ascii=False) + "\n").encode())

    def adopt(self, item: ItemId) -> None:
        """Say in the journal what a killed process had no time to say."""
        entry = self.done.unsaid.pop(str(item), None)
        if entry is not None:
            self.say(entry)

    def skip(self, item: ItemId, path: str, reason: str) -> None:
        """Remember that there is nothing to write for an item."""
        if item not in self.done:
            self._submit(self.say, {"item": str(item), "path": path, "skipped": reason})

    def write(self, item: ItemId, latents: Tensor, metadata: Mapping[str, Any], frames: int) -> None:
        """Write an item, unless it is done.

        Args:
            item: Which.
            latents: (D, L), in the data type that is wanted.
            metadata: What goes into its JSON file.
            frames: How many of the frames hold audio.
        """
        if item not in self.done:
            half = self.done.halves.get(str(item))
            name = half.stem if half is not None else item.name(self.rank)
            self._submit(self._write, name, latents, dict(metadata), journal_entry(str(item), name, metadata, frames))

    def _submit(self, function: Any, *arguments: Any) -> None:
        self._waiting.append(self._thread.submit(function, *arguments))
        while len(self._waiting) > MAX_WAITING:
            self._waiting.pop(0).result()

    def _write(self, name: str, latents: Tensor, metadata: dict[str, Any], entry: dict[str, Any]) -> None:
        is_sample = self.format == "wds"
        text = (json.dumps(stored(metadata) if is_sample else metadata, ensure_ascii=False) + "\n").encode()
        if is_sample:
            self._shard += [(f"{name}.npy", _npy(latents), {}), (f"{name}.json", text, entry)]
            return
        target = self.done.halves.get(entry["item"], self.folder / f"{name}.{self.format}")
        if entry["item"] not in self.done.halves:
            with atomic_path(target) as path:
                write_latents(path, latents, self.format)
        with atomic_path(target.with_suffix(".json")) as path:
            path.write_bytes(text)
        self.say(entry)

    def end_group(self, group: int) -> None:
        """Write what belongs into one tar file, and wait until all of the group is on disk."""
        if self.format == "wds":
            self._submit(self._write_shard, group)
        for future in self._waiting:
            future.result()
        self._waiting.clear()

    def _write_shard(self, group: int) -> None:
        shard = f"{self.rank:03d}{group:06d}"
        if self._shard:
            with atomic_path(self.folder / f"{shard}.tar") as path, tarfile.open(path, "w") as tar:
                for name, content, _ in sorted(self._shard, key=lambda member: member[0]):
                    info = tarfile.TarInfo(name)
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
        for _, _, entry in self._shard:
            if entry:
                self.say(entry)
        if self._shard:
            self.say({"shard": shard})
        self._shard.clear()

    def close(self) -> None:
        """Wait for what is being written; nothing more is begun."""
        self._thread.shutdown(cancel_futures=True)
        os.close(self._journal)


def write_latents(path: Path, latents: Tensor, format: Format) -> None:  # noqa: A002
    """One tensor as a file of its own; not atomic."""
    if format == "safetensors":
        save_file({TENSOR: latents.contiguous()}, path)
    else:
        path.write_bytes(_npy(latents))


def _npy(latents: Tensor) -> bytes:
    stream = io.BytesIO()
    np.save(stream, latents.contiguous().numpy())
    return stream.getvalue()


def storable(latents: Tensor, dtype: torch.dtype) -> Tensor:
    """Latents in the data type that is wanted; tokens stay whole numbers."""
    return latents.to(dtype) if latents.is_floating_point() else latents
