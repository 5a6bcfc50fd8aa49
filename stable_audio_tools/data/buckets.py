"""Length buckets: batches of items of similar length, so that short items are not padded to the length of the longest."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from stable_audio_tools.data.loader import ResumableSampler
from stable_audio_tools.data.replacing import ReplacingDataset
from stable_audio_tools.errors import DataError


class BucketSampler(ResumableSampler):
    """Orders a pass so that every ``batch_size`` items that follow each other (over all processes) have one length.

    What does not fill a batch of its bucket joins the next longer one, so that each item comes once per pass; only what is left of the
    longest bucket makes a smaller batch, which comes last, or is dropped. Batches of all lengths are shuffled.

    Args:
        lengths: The length that each item is padded to, by index.
        batch_size: Items per batch and process.
        shuffle: Whether to shuffle; otherwise batches come by length.
        seed: None draws one from torch's global stream.
        drop_last: Leave out the last batch if it is not full, rather than deliver a smaller one.
    """

    def __init__(
        self, lengths: Sequence[int], *, batch_size: int, shuffle: bool = True, seed: int | None = None, drop_last: bool = True
    ) -> None:
        super().__init__(range(len(lengths)), shuffle=shuffle, seed=seed, drop_last=drop_last)
        self.lengths = torch.tensor(list(lengths))
        self.items_per_batch = batch_size

    def obstacle(self, state: Mapping[str, int]) -> str:
        now = self.items_per_batch * self._split()[0]
        before = state.get("items_per_step", now)
        return "" if before == now else f"{now} items per batch instead of {before}"

    def order(self, world: int) -> tuple[Tensor, Tensor | None]:
        """Index and length of every item of this pass."""
        step = self.items_per_batch * world
        shuffled, _ = super().order(world)
        blocks: list[tuple[Tensor, int]] = []
        waiting = shuffled[:0]
        length = 0
        for length in sorted(set(self.lengths.tolist())):
            waiting = torch.cat([waiting, shuffled[self.lengths[shuffled] == length]])
            whole = len(waiting) // step * step
            blocks += [(block, length) for block in waiting[:whole].split(step)] if whole else []
            waiting = waiting[whole:]
        if self.shuffle:
            generator = torch.Generator().manual_seed(self.seed + self.epoch)
            blocks = [blocks[position] for position in torch.randperm(len(blocks), generator=generator).tolist()]
        if not self.drop_last:  # processes make the same number of steps, so a few items come twice
            waiting = waiting.repeat(world)[: -(-len(waiting) // world) * world]
        blocks.append((waiting, length))
        return torch.cat([block for block, _ in blocks]), torch.cat([torch.full_like(block, length) for block, length in blocks])


class BucketedDataset(ReplacingDataset):
    """A dataset that can have batches of several lengths: after `set_buckets`, its loader asks for items of these lengths.

    Attributes:
        bucket_lengths: The length of each item; None if all have the same.
        sample_weights: How often each item is drawn, relative to others; None if equally often.
    """

    bucket_lengths: list[int] | None = None
    sample_weights: Tensor | None = None

    def set_buckets(self, bounds: Sequence[int], lengths: Sequence[int]) -> None:
        """Give each item the smallest of the ``bounds`` that holds its length, or the largest.

        Raises:
            DataError: If items have weights: what is drawn with repetition cannot be sorted into whole batches beforehand.
        """
        if self.sample_weights is not None:
            raise DataError("length_buckets and weights of folders do not go together; leave out one of them")
        ordered = sorted(bounds)
        self.bucket_lengths = [ordered[min(bisect_left(ordered, length), len(ordered) - 1)] for length in lengths]

    def sampler(self, *, shuffle: bool, seed: int | None, drop_last: bool, batch_size: int, num_workers: int) -> ResumableSampler:
        """The sampler of its loader: batches of one length each, if there are length buckets."""
        options: dict[str, Any] = {"shuffle": shuffle, "seed": seed, "drop_last": drop_last}
        if self.bucket_lengths is None:
            return ResumableSampler(self, **options)
        return BucketSampler(self.bucket_lengths, batch_size=batch_size, **options)
