"""Samples of latents in shards: ``.npy`` or ``.safetensors``, and ``.json``."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, BinaryIO, NamedTuple

from stable_audio_tools.data.latent_file import LATENT_SUFFIXES, UnreadableError
from stable_audio_tools.data.metadata import CustomMetadata
from stable_audio_tools.data.shards.files import ShardFile, ShardFiles, ShardSource
from stable_audio_tools.data.shards.listing import expand_braces
from stable_audio_tools.data.shards.storage import Storage
from stable_audio_tools.data.store_facts import CARD, DETAILS, StoreFacts


class ShardLatent(NamedTuple):
    """A `LatentFile` of a shard."""

    file: ShardFile
    store: StoreFacts

    @property
    def path(self) -> str:
        """Shard and member."""
        return self.file.path

    @property
    def custom_metadata(self) -> CustomMetadata | None:
        """The function of the user's metadata module."""
        return self.file.custom_metadata

    def opened(self) -> AbstractContextManager[BinaryIO]:
        """The member."""
        return self.file.opened()

    def metadata(self) -> dict[str, Any]:
        """What its JSON says, with its key and shard."""
        if self.file.data is None:
            raise UnreadableError(f"{self.path}: has no .json member beside it, which each sample of latents has")
        return self.file.described(with_reserved=True)


class ShardLatents(ShardFiles):
    """The samples of several sources, and what is said of all those of each.

    Args:
        sources: Where the shards are.
        keep_broken: Use the whole samples of shards that are cut off or damaged, rather than to stop.

    Raises:
        DataError: If there are no samples, or a shard is broken and such shards are not to be kept.
    """

    def __init__(self, sources: Sequence[ShardSource], *, keep_broken: bool = False) -> None:
        super().__init__(sources, frozenset(LATENT_SUFFIXES), keep_broken=keep_broken)
        self.stores = [facts_beside(source) for source in sources]

    def __getitem__(self, index: int, /) -> ShardLatent:  # type: ignore[override]
        return ShardLatent(super().__getitem__(index), self.stores[self.source_of(index)])

    def of_store(self, number: int) -> range:
        """The samples of a source."""
        return self.of_source(number)


def facts_beside(source: ShardSource) -> StoreFacts:
    """What lies beside the shards of a source; above a folder that is called by a number, as ``sat pre-encode`` has one of each process."""
    storage = source.storage
    url = expand_braces(source.url)[0] if source.url.endswith(".tar") else source.url
    link = storage.link(storage.path(url)).rstrip("/")
    folder = link.rsplit("/", 1)[0] if link.endswith((".tar", ".json")) else link
    above, _, name = folder.rpartition("/")
    if name.isdigit() and all(storage.read_whole(f"{folder}/{fact}") is None for fact in (CARD, DETAILS)):
        folder = above
    return StoreFacts(folder, partial(_read_beside, storage, folder))


def _read_beside(storage: Storage, folder: str, name: str) -> bytes | None:
    return storage.read_whole(f"{folder}/{name}")
