"""BucketSampler: batches of items of similar length, so that short items are not padded to the length of the longest."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stable_audio_tools.data.loader import ResumableSampler


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

    order_depends_on_batches = True

    def __init__(
        self, lengths: Sequence[int], *, batch_size: int, shuffle: bool = True, seed: int | None = None, drop_last: bool = True
    ) -> None:
        super().__init__(range(len(lengths)), shuffle=shuffle, seed=seed, drop_last=drop_last)
        self.lengths = torch.tensor(list(lengths))
        self.items_per_batch = batch_size

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
