"""The work of one process: which items, loaded how, and which of them are encoded together.

Items are done in groups, which belong to processes by their number. Within a group, items of one bucket make batches in the order in which
they come, whatever is done already: so a run that was stopped and goes on computes what an uninterrupted one would have.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from stable_audio_tools.data.base import ItemDataset, ItemKey
from stable_audio_tools.data.loader import leave_signals_to_main, with_plain_errors
from stable_audio_tools.preencode.encoder import LatentEncoder
from stable_audio_tools.preencode.machines import Place
from stable_audio_tools.preencode.store import ItemId


class Work:
    """Which items there are, in which order, and which groups of them are this process's.

    Args:
        dataset: Gives the items.
        place: Of this process.
        group_size: Items per group.
        limit: Of items in all; None is no limit.
        shuffle: Whether to go through them in random order.
        seed: Of that order and of random crops.
    """

    def __init__(self, dataset: ItemDataset, place: Place, *, group_size: int, limit: int | None, shuffle: bool, seed: int) -> None:
        self.dataset = dataset
        self.seed = seed
        self.group_size = group_size
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(dataset), generator=generator).tolist() if shuffle else list(range(len(dataset)))
        self.order: list[int] = order[:limit]
        self.groups = range(place.rank, -(-len(self.order) // group_size), place.world)

    @property
    def is_all(self) -> bool:
        """Whether no item is left out."""
        return len(self.order) == len(self.dataset)

    @property
    def ids(self) -> set[str]:
        """Of the items of all processes."""
        return {str(ItemId(*divmod(position, self.group_size))) for position in range(len(self.order))}

    def items(self, group: int) -> list[tuple[ItemId, int]]:
        """The items of a group, with their places in the dataset."""
        indices = self.order[group * self.group_size : (group + 1) * self.group_size]
        return [(ItemId(group, place), index) for place, index in enumerate(indices)]


class Loaded(NamedTuple):
    """One item as a worker hands it over.

    Attributes:
        item: Which.
        name: What its noise is drawn by: the file and where the crop begins; the file alone if there is no audio.
        audio: (C, T) without padding; None if it cannot be used.
        metadata: What the dataset says.
        reason: Why it cannot be used.
    """

    item: ItemId
    name: str
    audio: Tensor | None
    metadata: dict[str, Any]
    reason: str


class Loading(Dataset[Loaded]):
    """Loads items without their padding, so that workers do not hand zeros around."""

    def __init__(self, work: Work, items: Sequence[tuple[ItemId, int]]) -> None:
        self.dataset = work.dataset
        self.seed = work.seed
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, position: int) -> Loaded:
        item, index = self.items[position]
        found, reason = self.dataset.exactly(ItemKey(index, 0, self.seed))
        if found is None:
            return Loaded(item, self.dataset.name(index), None, {}, reason)
        audio, metadata = found
        mask = metadata.get("padding_mask")
        mask = mask[0] if isinstance(mask, (list, tuple)) else mask
        real = int(mask.sum()) if mask is not None else audio.shape[-1]
        name = f"{metadata.get('relpath', index)}/{metadata.get('timestamps')}"
        return Loaded(item, name, audio[:, : max(real, 1)].contiguous(), metadata, "")


class Batch(NamedTuple):
    """What is encoded at once.

    Attributes:
        items: Of one group and bucket; one item without audio makes a batch by itself.
        ends: The group that ends here, if one does.
    """

    items: list[Loaded]
    ends: int | None = None


def batches(
    work: Work, todo: Sequence[tuple[ItemId, int]], encoder: LatentEncoder, *, batch_size: int, num_workers: int
) -> Iterator[Batch]:
    """Load items and sort them by length.

    Args:
        work: Where they come from.
        todo: Whole groups, one after the other.
        encoder: Says what their buckets are.
        batch_size: Items per batch, at most.
        num_workers: Processes that load.
    """
    loader = DataLoader(
        Loading(work, todo), batch_size=None, num_workers=num_workers, collate_fn=_as_it_is, worker_init_fn=leave_signals_to_main
    )
    waiting: dict[int, list[Loaded]] = {}
    for position, loaded in enumerate(with_plain_errors(iter(loader))):
        if loaded.audio is None:
            yield Batch([loaded])
        else:
            bucket = encoder.bucket(loaded.audio.shape[-1])
            waiting.setdefault(bucket, []).append(loaded)
            if len(waiting[bucket]) == batch_size:
                yield Batch(waiting.pop(bucket))
        group = loaded.item.group
        if position + 1 == len(todo) or todo[position + 1][0].group != group:
            yield from map(Batch, waiting.values())
            waiting = {}
            yield Batch([], ends=group)


def _as_it_is(value: Any) -> Any:
    return value
