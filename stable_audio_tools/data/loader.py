"""Loaders whose position can be saved, so that a resumed run goes on with the next item."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator, Mapping, Sequence, Sized
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, default_collate, get_worker_info

from stable_audio_tools.data.base import ItemKey, Ordered, Summarised, Weighted
from stable_audio_tools.errors import DataError, StableAudioError

logger = logging.getLogger(__name__)


class ResumableSampler(DistributedSampler[ItemKey]):
    """Item keys of one pass through a dataset, shuffled by seed and epoch, split over the processes of a distributed run.

    A `DistributedSampler` by type, so that Lightning leaves it alone; process group and rank are looked up when a pass begins. Lightning
    calls `set_epoch`; where nobody does, each pass is the next epoch.

    Args:
        dataset: What is sampled.
        shuffle: Whether to shuffle; otherwise every pass is the same, in order and with the same crops, as validation wants.
        seed: None draws one from torch's global stream.
        drop_last: Leave out items that do not split evenly over processes, rather than repeating some.

    If the dataset is `Weighted`, a shuffled pass draws as many items as there are, with repetition, as often as their weights say.
    """

    def __init__(self, dataset: Sized, *, shuffle: bool = True, seed: int | None = None, drop_last: bool = True) -> None:
        super().__init__(dataset, num_replicas=1, rank=0, shuffle=shuffle, drop_last=drop_last)  # type: ignore[arg-type]
        self.seed = int(torch.randint(2**31 - 1, ())) if seed is None else seed
        self.start = 0  # items of this process to leave out at the beginning of the next pass
        self._was_used = False  # whether a pass of this epoch has begun

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the next pass is."""
        super().set_epoch(epoch)
        self._was_used = False

    def _split(self) -> tuple[int, int]:
        """Number of processes and the rank of this one."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return torch.distributed.get_world_size(), torch.distributed.get_rank()
        return 1, 0

    def __len__(self) -> int:
        world, _ = self._split()
        total = len(self.dataset)  # type: ignore[arg-type]
        return total // world if self.drop_last else -(-total // world)

    def extra_state(self) -> dict[str, int]:
        """What the order of this pass depends on besides seed and epoch; kept with the position."""
        return {}

    def load_extra_state(self, state: Mapping[str, int], epoch: int) -> None:
        """Restore what `extra_state` said of the pass ``epoch``."""

    def begin_pass(self) -> None:
        """Go to the next epoch, unless it was set."""
        if self._was_used:
            self.epoch += 1
        self._was_used = True

    def obstacle(self, state: Mapping[str, int]) -> str:
        """Why a pass that was left in the middle must begin anew: which numbers are not those of ``state``; empty if it can go on."""
        return ""

    @property
    def _weights(self) -> Tensor | None:
        return self.dataset.sample_weights if isinstance(self.dataset, Weighted) and self.shuffle else None

    def order(self, world: int) -> tuple[Tensor, Tensor | None]:
        """Index of every item of this pass, for ``world`` processes that take turns; and its length, where they differ."""
        total = len(self.dataset)  # type: ignore[arg-type]
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        if self._weights is not None:
            return _draw(self._weights, total, generator), None
        return (torch.randperm(total, generator=generator) if self.shuffle else torch.arange(total)), None

    def __iter__(self) -> Iterator[ItemKey]:
        world, rank = self._split()
        order, lengths = self.order(world)
        count = len(self) * world
        order = order.repeat(-(-count // max(len(order), 1)))[:count]
        start, self.start = self.start, 0
        return self._keys(order, lengths, range(rank + start * world, count, world), is_drawn=self._weights is not None)

    def _keys(self, order: Tensor, lengths: Tensor | None, places: range, *, is_drawn: bool) -> Iterator[ItemKey]:
        """The items at some places of the order, made one by one: a list of a million would take 100 MB."""
        epoch, seed = self.epoch if self.shuffle else 0, self.seed
        return (
            ItemKey(int(order[place]), epoch, seed, place if is_drawn else 0, int(lengths[place]) if lengths is not None else None)
            for place in places
        )


def _draw(weights: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Indices drawn with repetition. By hand, since ``torch.multinomial`` takes at most 2**24 weights."""
    sums = weights.double().cumsum(0)
    return torch.searchsorted(sums, torch.rand(count, generator=generator, dtype=torch.float64) * sums[-1], right=True)


class ResumableLoader(DataLoader[Any]):
    """A `DataLoader` with ``state_dict`` and ``load_state_dict``, which Lightning calls when it saves and resumes.

    The position is kept in items over all processes, so that a run may go on with batches of another size.

    Attributes:
        resumed_at: Batches of this pass that count as done, if that is another number than the run that was resumed had done: its batches
            had another size, or the pass begins anew; None otherwise.
    """

    resumed_at: int | None = None
    _before = 0  # items of this process that an earlier part of the run has used in this pass
    _delivered = 0  # batches of this pass since
    _num_told = 0  # of the files that were skipped

    def __iter__(self) -> Any:
        if isinstance(self.sampler, ResumableSampler):
            self.sampler.begin_pass()
            self._before, self._delivered = self.sampler.start, 0
        return self._counted(super().__iter__())

    def _counted(self, batches: Iterator[Any]) -> Iterator[Any]:
        for batch in with_plain_errors(batches):
            self._delivered += 1
            items = self._before + self._delivered * (self.batch_size or 1)
            if self._batches_after(items) == 0:  # here, not after the loop: Lightning never asks for more than the last batch
                self._say_what_was_skipped()
            yield batch

    def _say_what_was_skipped(self) -> None:
        """Once per pass, if it was more than before."""
        if isinstance(self.dataset, Summarised) and self.dataset.num_skipped > self._num_told:
            self._num_told = self.dataset.num_skipped
            logger.info("data: %s", self.dataset.summary())

    def state_dict(self) -> dict[str, int]:
        """Where this pass has got to."""
        sampler = self.sampler
        assert isinstance(sampler, ResumableSampler)
        step, (world, _) = self.batch_size or 1, sampler._split()
        items = self._before + self._delivered * step
        is_done = self._batches_after(items) == 0
        return {
            "seed": sampler.seed,
            "epoch": sampler.epoch + is_done,
            "items": 0 if is_done else items * world,
            "items_per_step": step * world,
            **({} if is_done else sampler.extra_state()),
        }

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on from there with the next pass that is started."""
        sampler = self.sampler
        assert isinstance(sampler, ResumableSampler)
        step, (world, _) = self.batch_size or 1, sampler._split()
        before, now = state.get("items_per_step", step * world), step * world
        items = (state["items"] if "items" in state else state["batches"] * now) // world
        obstacle = sampler.obstacle(state) if items else ""
        sampler.seed = state["seed"]
        sampler.set_epoch(state["epoch"])
        if obstacle:
            logger.warning("resumed with %s, on which the order of length buckets depends: this pass begins anew", obstacle)
            items = 0
        else:
            sampler.load_extra_state(state, state["epoch"])
        left = self._batches_after(items)
        sampler.set_epoch(state["epoch"] + (left == 0))
        sampler.start = self._before = items if left else 0
        self._delivered = 0
        self.resumed_at = 0 if obstacle else None
        if before != now and not obstacle:
            self.resumed_at = len(self) - left if items else len(self)
            logger.warning("resumed with %d items per batch (over all processes) instead of %d, after the same items", now, before)

    def _batches_after(self, items: int) -> int:
        """Batches that a pass has left after so many items of this process."""
        left, step = len(self.sampler) - items, self.batch_size or 1  # type: ignore[arg-type]
        return left // step if self.drop_last else -(-left // step)


def with_plain_errors(batches: Iterator[Any]) -> Iterator[Any]:
    """Our errors as they were raised in a worker: torch hands them over with the worker's traceback for a message."""
    try:
        yield from batches
    except StableAudioError as error:
        kind = type(error)
        _, marker, message = str(error).rpartition(f"\n{kind.__module__}.{kind.__qualname__}: ")
        if not marker:
            raise
        raise kind(message.strip()) from error


def collation_fn(samples: Sequence[Sequence[Any]]) -> list[Any]:
    """Items ``(audio, metadata, ...)`` to a batch: tensors stacked, numbers as arrays, anything else as a tuple."""
    batch: list[Any] = []
    for values in zip(*samples, strict=True):
        if isinstance(values[0], (int, float)):
            batch.append(np.array(values))
        elif isinstance(values[0], Tensor):
            batch.append(_stack(values))
        elif isinstance(values[0], np.ndarray):
            batch.append(np.array(values))
        elif isinstance(values[0], dict) and get_worker_info() is not None:
            batch.append(tuple(_easily_sent(metadata) for metadata in values))
        else:
            batch.append(values)
    return batch


def _stack(values: Sequence[Tensor]) -> Tensor:
    shapes = dict.fromkeys(tuple(value.shape) for value in values)
    if len(shapes) > 1:
        raise DataError(
            f"items of one batch have different shapes: {', '.join(map(str, shapes))}; if these are pre-encoded, set latent_crop_length or "
            "length_buckets in the dataset config"
        )
    return default_collate(list(values))  # torch.stack, but in a worker into the shared memory that it would be copied to otherwise


def _easily_sent(metadata: dict[str, Any]) -> dict[str, Any]:
    """With a mask that is one everywhere as a view of one number: sent as it is, that of 47 s takes half as long as its audio."""
    mask = metadata.get("padding_mask")
    if not isinstance(mask, Tensor) or not mask.numel() or not bool((mask == 1).all()):
        return metadata
    return {**metadata, "padding_mask": mask.new_ones(()).expand(mask.shape)}  # (T,), its strides 0


def make_loader(
    dataset: Dataset[Any], *, batch_size: int, num_workers: int, shuffle: bool, drop_last: bool, seed: int | None = None
) -> ResumableLoader:
    """A loader over a map-style dataset that takes `ItemKey`."""
    options: dict[str, Any] = {"shuffle": shuffle, "seed": seed, "drop_last": drop_last}
    if isinstance(dataset, Ordered):
        sampler = dataset.sampler(**options, batch_size=batch_size, num_workers=num_workers)
    else:
        sampler = ResumableSampler(dataset, **options)  # type: ignore[arg-type]
    return ResumableLoader(
        dataset,
        batch_size,
        sampler=sampler,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        pin_memory=torch.cuda.is_available(),
        drop_last=drop_last,
        collate_fn=collation_fn,
        worker_init_fn=leave_signals_to_main,
        generator=torch.Generator().manual_seed(sampler.seed),
    )


def leave_signals_to_main(worker: int) -> None:
    """Ctrl-C, and many a SIGTERM, reach every process of a group. Workers that died of it would end the run before it can save."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Only the first one: the main process ends a stuck worker with SIGTERM too, and more than once.
    signal.signal(signal.SIGTERM, lambda number, frame: signal.signal(number, signal.SIG_DFL))
