"""The samples of all shards as the files of a dataset, in arrays, so that a million of them are not a million objects."""

from __future__ import annotations

import itertools
import json
import logging
from array import array
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stable_audio_tools.data.lengths import SaidLengths
from stable_audio_tools.data.metadata import RESERVED, CustomMetadata
from stable_audio_tools.data.names import Names
from stable_audio_tools.data.shards.listing import index_shards, list_shards, read_lengths
from stable_audio_tools.data.shards.prompts import settled
from stable_audio_tools.data.shards.reader import Shard, ShardReader
from stable_audio_tools.data.shards.storage import Storage
from stable_audio_tools.data.shards.tars import Member, Sample
from stable_audio_tools.errors import AudioError, DataError, counted

logger = logging.getLogger(__name__)
_COLUMNS = 3  # content, json, txt: what is used of a sample


class ShardSource(NamedTuple):
    """Shards of one entry of a config."""

    url: str
    storage: Storage
    custom_metadata: CustomMetadata | None = None
    caption: str | None = None
    weight: float = 1.0


class ShardFile(NamedTuple):
    """One sample."""

    shard: Shard
    key: str
    content: Member
    data: Member | None
    text: Member | None
    source: ShardSource
    reader: ShardReader

    @property
    def path(self) -> str:
        """Shard and member."""
        return f"{self.shard.url}#{self.content.name}"

    @property
    def relpath(self) -> str:
        """Name of the member."""
        return self.content.name

    @property
    def custom_metadata(self) -> CustomMetadata | None:
        """The function of the user's metadata module."""
        return self.source.custom_metadata

    def opened(self) -> AbstractContextManager[BinaryIO]:
        """The content, of which only what is read is fetched."""
        self.reader.check(self.shard, self.content)
        return self.reader.opened(self.shard, self.content.offset, self.content.size, self.path)

    def described(self, *, with_reserved: bool = False) -> dict[str, Any]:
        """What the sample says of itself, with its key and shard; its ``text`` or ``caption`` is its prompt.

        Args:
            with_reserved: Also what is measured, of audio.

        Raises:
            AudioError: If that cannot be read.
        """
        prompt = self.source.caption
        if self.text is not None:
            prompt = self.reader.read(self.shard, self.text).decode("utf-8", "replace").strip()
        said = {key: value for key, value in self.metadata().items() if with_reserved or key not in RESERVED or key == "relpath"}
        return {**settled(said, prompt), "__key__": self.key, "__url__": self.shard.url}

    def metadata(self) -> dict[str, Any]:
        """Its JSON.

        Raises:
            AudioError: If it holds something else.
        """
        if self.data is None:
            return {}
        try:
            said = json.loads(self.reader.read(self.shard, self.data))
        except ValueError as error:
            raise AudioError(f"{self.shard.url}#{self.data.name}: not valid JSON: {error}") from error
        if not isinstance(said, dict):
            raise AudioError(f"{self.shard.url}#{self.data.name}: holds {type(said).__name__}, not an object")
        return said


class ShardFiles(SaidLengths):
    """The samples of several sources.

    Args:
        sources: Where the shards are.
        extensions: Of the files that are the content of a sample, with a dot; the last one of a name counts.
        keep_broken: Use the whole samples of shards that are cut off or damaged, rather than to stop.

    Attributes:
        shards: All shards, in order.
        starts: (shards + 1,) index of the first sample of each, and the number of samples.
        lost: What is missing, and why.

    Raises:
        DataError: If there are no samples, or a shard is broken and such shards are not to be kept.
    """

    def __init__(self, sources: Sequence[ShardSource], extensions: frozenset[str], *, keep_broken: bool = False) -> None:
        super().__init__()
        if not sources:
            raise DataError("datasets: the list is empty; give at least one source of shards")
        self.sources = list(sources)
        self.reader = ShardReader()
        self.lost: list[str] = []
        self.shards: list[Shard] = []
        self._source_of: list[int] = []
        self._extensions, self._codes = list[str](), dict[str, int]()
        starts, keys = [0], list[str]()
        places, exts, without = array("q"), array("h"), list[str]()
        for number, source in enumerate(sources):
            shards, counts = list_shards(source.url, source.storage)
            for shard, index in zip(shards, index_shards(shards), strict=True):
                held = len(index.samples)
                stated = counts.get(shard.url, held)
                broken = index.broken or (f"{counted(held, 'sample')}, but its manifest says {stated}" if stated != held else "")
                if broken:
                    self._lose(f"{shard.url}: {broken}", held, keep_broken)
                for sample in index.samples:
                    if not self._add(sample, extensions, places, exts):
                        without.append(f"{shard.url}#{sample.key}")
                        continue
                    keys.append(sample.key)
                self.shards.append(shard)
                self._source_of.append(number)
                starts.append(len(keys))
        self.starts = np.array(starts, dtype=np.int64)
        self._keys = Names.of(keys)
        self._places = np.array(places, dtype=np.int64).reshape(-1, _COLUMNS, 2)  # (samples, columns, offset and size)
        self._exts = np.array(exts, dtype=np.int16)
        self._say(without, extensions)

    def _lose(self, what: str, count: int, keep: bool) -> None:
        whole = counted(count, "whole sample")
        if not keep:
            raise DataError(f'{what}; download or pack it again, or write "broken_shards": "keep" to use the {whole} in it')
        self.lost.append(what)
        logger.warning("%s; used: %s; what followed is lost", what, whole)

    def _add(self, sample: Sample, extensions: frozenset[str], places: array[int], exts: array[int]) -> bool:
        chosen: list[Member | None] = [None] * _COLUMNS
        for member in sample.members:
            last = "." + member.ext.rsplit(".", 1)[-1]
            column = 1 if last == ".json" else 2 if last == ".txt" else 0 if last in extensions else None
            if column is not None and chosen[column] is None:
                chosen[column] = member
        if chosen[0] is None:
            return False
        for member in chosen:
            places.extend((member.offset, member.size) if member is not None else (-1, -1))
        ext = chosen[0].ext
        if ext not in self._codes:
            self._codes[ext] = len(self._extensions)
            self._extensions.append(ext)
        exts.append(self._codes[ext])
        return True

    def _say(self, without: list[str], extensions: frozenset[str]) -> None:
        kind = "latents (.npy or .safetensors)" if ".npy" in extensions else "audio"
        if not len(self):
            where = ", ".join(source.url for source in self.sources)
            hint = f", but {counted(len(without), 'other sample')}, first {without[0]}" if without else ""
            shards = counted(len(self.shards), "shard")
            raise DataError(f'{where}: no samples with {kind} in {shards}{hint}; is "pre_encoded" set as it should be?')
        if without:
            self.lost.append(f"{counted(len(without), 'sample')} without {kind}, first {without[0]}")
            logger.warning("left out %s", self.lost[-1])
        logger.info("found %s in %s", counted(len(self), "sample"), counted(len(self.shards), "shard"))

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, index: int, /) -> ShardFile:
        number = int(np.searchsorted(self.starts, index, side="right")) - 1
        shard, source, key = self.shards[number], self.sources[self._source_of[number]], self._keys[index]
        exts = (self._extensions[self._exts[index]], "json", "txt")
        members = [
            Member(ext, int(offset), int(size), f"{key}.{ext}") if size >= 0 else None
            for ext, (offset, size) in zip(exts, self._places[index], strict=True)
        ]
        assert members[0] is not None
        return ShardFile(shard, key, members[0], members[1], members[2], source, self.reader)

    def source_of(self, index: int) -> int:
        """The number of the source that a sample is from."""
        return self._source_of[int(np.searchsorted(self.starts, index, side="right")) - 1]

    def of_source(self, number: int) -> range:
        """The samples of a source."""
        first, last = (np.searchsorted(self._source_of, number, side=side) for side in ("left", "right"))
        return range(int(self.starts[first]), int(self.starts[last]))

    def near(self) -> NDArray[np.bool_]:
        """Which samples are on this machine."""
        return np.repeat([shard.storage.is_local for shard in self.shards], np.diff(self.starts))

    def keep(self, kept: NDArray[np.bool_]) -> None:
        """Forget all samples but those that are kept; shards stay, with fewer."""
        self._keys = Names.of(self._keys[int(index)] for index in np.flatnonzero(kept))
        self._places, self._exts = self._places[kept], self._exts[kept]
        self.starts = np.concatenate([[0], np.cumsum(kept)])[self.starts].astype(np.int64)
        self.forget(kept)

    def read_lengths(self, *, need_all: bool) -> None:
        """Make what is written down beside the shards of how long samples are known.

        Raises:
            DataError: If it is needed of all, and of some there is nothing, and they are not on this machine.
        """
        said = read_lengths(self.shards)
        spans = itertools.pairwise(self.starts.tolist())
        self.learn(entries.get(self._keys[index], {}) for entries, span in zip(said, spans, strict=True) for index in range(*span))
        unknown = (self.known("num_frames", -1) < 0) & ~self.near()
        if need_all and unknown.any():
            first = self.shards[int(np.searchsorted(self.starts, int(np.argmax(unknown)), side="right")) - 1]
            raise DataError(
                f"length_buckets: nothing beside {first.url} says how long its samples are ({unknown.sum()} of {len(self)} are not known), "
                "and finding out would fetch all of them; pack them again with sat data pack, which writes it down, or leave it out"
            )

    def shard_weights(self) -> NDArray[np.float64]:
        """(shards,) weight of the source of each."""
        return np.array([self.sources[number].weight for number in self._source_of])

    def mean_bytes_from_afar(self) -> float:
        """Mean size of the content of samples that are not on this machine; 0 if all are."""
        far = ~self.near()
        return float(self._places[far, 0, 1].mean()) if far.any() else 0.0

    def weights(self) -> None:
        """None: shards are drawn, not samples."""
        return
