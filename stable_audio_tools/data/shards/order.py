"""The order of a pass through shards: far from random enough to read them from end to end, near enough to train on."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from stable_audio_tools.data.base import ItemKey
from stable_audio_tools.data.loader import ResumableSampler

Indices = NDArray[np.int64]


class Layout(NamedTuple):
    """How a pass is dealt out. Kept with its position, so that a run may go on with other numbers and yet with the same items."""

    world: int
    """Processes of the run."""
    streams: int
    """Workers of each, every one of which reads shards of its own."""
    batch: int
    """Items per batch."""


class Sharded(Protocol):
    """What the sampler needs to know of a dataset."""

    shard_starts: Indices
    """(shards + 1,) index of the first sample of each shard, and the number of samples."""
    shard_weights: NDArray[np.float64]
    """(shards,) how often samples of each are drawn, relative to others."""
    shuffle_window: int
    """How many samples in the order of the shards are mixed with each other."""
    epoch_steps: int | None
    """Batches of a pass, for which shards are drawn with repetition; None if a pass has every sample once."""
    bucket_lengths: Sequence[int] | None
    """The length that each sample is to be padded to; None if all have the same."""

    def __len__(self) -> int: ...


class ShardSampler(ResumableSampler):
    """Deals samples out to processes and workers so that each worker reads a stretch of shards from end to end.

    Shards are shuffled, laid end to end, and cut into as many stretches as there are workers in all; a stretch may begin and end within a
    shard. Every process gets the same number of samples, however many shards there are and however long each is. Within a stretch, samples
    are mixed over ``shuffle_window`` samples.

    With length buckets, the samples of each such window are sorted into batches of one length: what does not fill a batch of its bucket
    joins the next longer one, and the batches of a window are shuffled. The processes and workers have stretches of their own, so their
    lengths differ at the same step. A batch depends on the numbers of processes and of items per batch: a pass cannot go on with others.

    Args:
        dataset: The samples.
        shuffle: Whether to shuffle; otherwise every pass has every sample once and in order.
        seed: None draws one from torch's global stream.
        drop_last: Leave out samples that fill no batch in every process.
        batch_size: Items per batch and process.
        num_workers: Of the loader.
    """

    def __init__(
        self, dataset: Sharded, *, shuffle: bool = True, seed: int | None = None, drop_last: bool = True, batch_size: int, num_workers: int
    ) -> None:
        super().__init__(dataset, shuffle=shuffle, seed=seed, drop_last=drop_last)
        self.shards = dataset
        self.batch_size = batch_size
        self.num_streams = max(1, num_workers)
        self._kept: tuple[int, Layout] | None = None  # the pass that was resumed, and how it had been dealt out
        self._buckets = np.array(dataset.bucket_lengths or [], dtype=np.int64)

    @property
    def layout(self) -> Layout:
        """How this pass is dealt out."""
        if self._kept is not None and self._kept[0] == self.epoch:
            return self._kept[1]
        return Layout(self._split()[0], self.num_streams, self.batch_size)

    def extra_state(self) -> dict[str, int]:
        """The layout."""
        return {f"shard_{name}": value for name, value in self.layout._asdict().items()}

    def load_extra_state(self, state: Mapping[str, int], epoch: int) -> None:
        """Deal the pass ``epoch`` out as it was."""
        names = [f"shard_{name}" for name in Layout._fields]
        if all(name in state for name in names):
            self._kept = (epoch, Layout(*(state[name] for name in names)))

    def obstacle(self, state: Mapping[str, int]) -> str:
        world, batch = self._split()[0], self.batch_size
        before = state.get("shard_world", world), state.get("shard_batch", batch)
        if self.shards.bucket_lengths is None or before == (world, batch):
            return ""
        return f"{world} processes of {batch} items per batch instead of {before[0]} of {before[1]}"

    @property
    def _draws(self) -> bool:
        return self.shuffle and self.shards.epoch_steps is not None

    def _total(self) -> int:
        """Samples of this pass, over all processes."""
        layout = self.layout
        return (self.shards.epoch_steps or 0) * layout.batch * layout.world if self._draws else len(self.shards)

    def __len__(self) -> int:
        world, _ = self._split()
        return self._total() // world if self.drop_last or self._draws else -(-self._total() // world)

    def __iter__(self) -> Iterator[ItemKey]:
        world, rank = self._split()
        start, self.start = self.start, 0
        mine = self.order()[rank : len(self) * world : world]
        lengths = self._batch_lengths(mine)
        epoch, seed, draws = self.epoch if self.shuffle else 0, self.seed, self._draws
        return (
            ItemKey(int(mine[n]), epoch, seed, rank + n * world if draws else 0, int(lengths[n]) if lengths is not None else None)
            for n in range(start, len(mine))
        )

    def order(self) -> Indices:
        """Every sample of this pass, in the order in which processes take turns."""
        layout = self.layout
        world, _ = self._split()
        if not self.shuffle:
            plain = _filled(np.arange(len(self.shards)), len(self) * world)
            return np.stack([self._by_length(part, rank) for rank, part in enumerate(plain.reshape(-1, world).T)], axis=1).reshape(-1)
        total = self._total()
        per_process = total // layout.world if self.drop_last or self._draws else -(-total // layout.world)
        lengths = _stream_lengths(per_process, layout)
        count = layout.world * layout.streams
        ends = np.cumsum([0, *lengths * layout.world])
        rest = np.zeros(0, dtype=np.int64)
        if self._draws:
            stretches = [self._drawn(int(length), number) for number, length in enumerate(np.diff(ends))]
        else:
            everything = self._shuffled_shards(max(total, int(ends[-1])))
            stretches = [everything[first:last] for first, last in itertools.pairwise(ends)]
            rest = everything[int(ends[-1]) :]  # fills no turn of all processes, but may of fewer, if the run goes on with fewer
        mixed = [self._by_length(self._mixed(stretch, number), number) for number, stretch in enumerate(stretches)]
        processes = [_in_turns(mixed[first : first + layout.streams], layout.batch) for first in range(0, count, layout.streams)]
        dealt = np.concatenate([np.stack(processes, axis=1).reshape(-1), rest])  # process 0, process 1, ..., process 0, ...
        return _filled(dealt, len(self) * world)

    def _random(self, *purpose: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, self.epoch, *purpose])

    def _shuffled_shards(self, count: int) -> Indices:
        starts = self.shards.shard_starts
        order = self._random(0).permutation(len(starts) - 1)
        return _filled(np.concatenate([np.arange(int(starts[shard]), int(starts[shard + 1])) for shard in order]), count)

    def _drawn(self, count: int, number: int) -> Indices:
        """Shards drawn with repetition and read to their end. The first is entered anywhere, as a stretch of an endless stream is, so that
        all samples are drawn equally often however long shards and stretches are.
        """
        starts, random = self.shards.shard_starts, self._random(1, number)
        sizes = np.diff(starts)
        weights = self.shards.shard_weights * (sizes > 0)
        pieces: list[Indices] = []
        held = 0
        while held < count:
            odds = np.cumsum(weights if pieces else weights * sizes)
            shard = int(np.searchsorted(odds, random.random() * odds[-1], side="right"))
            first = 0 if pieces else int(random.integers(sizes[shard]))
            pieces.append(int(starts[shard]) + np.arange(first, int(sizes[shard])))
            held += len(pieces[-1])
        return np.concatenate(pieces)[:count] if pieces else np.zeros(0, dtype=np.int64)

    def _mixed(self, stretch: Indices, number: int) -> Indices:
        """No sample moves further than the window, so what is read ahead is used soon."""
        keys = np.arange(len(stretch)) + self._random(2, number).random(len(stretch)) * self.shards.shuffle_window
        return stretch[np.argsort(keys, kind="stable")]

    def _by_length(self, stretch: Indices, number: int) -> Indices:
        """Batches of one length each, window by window; what fills no batch at the end of the stretch stays there."""
        if self.shards.bucket_lengths is None:
            return stretch
        batch, random = self.layout.batch, self._random(3, number)
        window = max(self.shards.shuffle_window // batch, 1) * batch
        whole = len(stretch) // batch * batch
        pieces: list[Indices] = []
        for first in range(0, whole, window):
            piece = stretch[first : min(first + window, whole)]
            batches = piece[np.argsort(self._buckets[piece], kind="stable")].reshape(-1, batch)
            pieces.append((batches[random.permutation(len(batches))] if self.shuffle else batches).reshape(-1))
        return np.concatenate([*pieces, stretch[whole:]])

    def _batch_lengths(self, mine: Indices) -> Indices | None:
        """The length of the batch that each item of this process is in: that of its longest."""
        if self.shards.bucket_lengths is None or not len(mine):
            return None
        longest = np.maximum.reduceat(self._buckets[mine], np.arange(0, len(mine), self.batch_size))
        return np.repeat(longest, self.batch_size)[: len(mine)]


def _stream_lengths(count: int, layout: Layout) -> list[int]:
    """How many of a process's items each of its workers gets, as the loader hands out batches: in turns."""
    batches = -(-count // layout.batch)
    lengths = [layout.batch * len(range(stream, batches, layout.streams)) for stream in range(layout.streams)]
    if batches:
        lengths[(batches - 1) % layout.streams] -= batches * layout.batch - count
    return lengths


def _in_turns(streams: list[Indices], batch: int) -> Indices:
    """Batches of each in turns."""
    count = sum(len(stream) for stream in streams)
    taken: list[Indices] = []
    for number in range(-(-count // batch)):
        first = number // len(streams) * batch
        taken.append(streams[number % len(streams)][first : first + batch])
    return np.concatenate(taken) if taken else np.zeros(0, dtype=np.int64)


def _filled(order: Indices, count: int) -> Indices:
    """Exactly ``count`` of them, from the start again if there are fewer."""
    return np.resize(order, count) if len(order) < count else order[:count]
