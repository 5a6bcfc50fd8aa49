"""The contract of datasets.

A dataset is an `ItemDataset`. It is registered under the ``dataset_type`` that
configs use; its constructor's parameters are the other keys of the config, and it is given what the model decides: ``sample_size``,
``sample_rate``, ``audio_channels``, and ``base_dir``, the folder of the config file.

Metadata keys that every item has:

=================  ==================================================================================================
``path``           the file
``relpath``        its path below the dataset's folder
``timestamps``     start and end of the crop, as fractions of the file
``seconds_start``  start of the crop, in whole seconds, rounded down
``seconds_total``  length of the whole file, in whole seconds, rounded up
``padding_mask``   (T,), 1 where there is audio, 0 where there is padding
``sample_rate``    Hz
``load_time``      seconds it took to load
=================  ==================================================================================================
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, runtime_checkable

from torch import Tensor
from torch.utils.data import Dataset

from stable_audio_tools.families import DATASETS


class ItemDataset(Dataset[tuple[Tensor, dict[str, Any]]]):
    """Items ``(audio (C, T) or latents (D, L), metadata)``, by index, or by `ItemKey` where an item is drawn at random."""

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, key: int | ItemKey) -> tuple[Tensor, dict[str, Any]]:
        raise NotImplementedError

    def exactly(self, key: int | ItemKey) -> tuple[tuple[Tensor, dict[str, Any]] | None, str]:
        """The item itself and never another in its place; or None, and why it cannot be used."""
        return self[key], ""

    def name(self, index: int) -> str:
        """What journals and messages call an item."""
        return str(index)


class ItemKey(NamedTuple):
    """Which item, in which pass through the data. An item's randomness depends on both and on nothing else, so a run can be resumed.

    Attributes:
        index: Of the item.
        epoch: Of the pass.
        seed: Of the run.
        draw: Which draw of this pass it is, if items are drawn with repetition: so that each has another crop. Otherwise 0.
        length: How long the item is to be, where items of a batch share a length that others do not have; None is the dataset's.
    """

    index: int
    epoch: int
    seed: int
    draw: int = 0
    length: int | None = None


@runtime_checkable
class Summarised(Protocol):
    """A dataset that can say which of its files were of no use; its loader says so after a pass, a training run when it ends."""

    @property
    def num_unreadable(self) -> int:
        """How many files have turned out to be unreadable so far."""
        ...

    @property
    def num_skipped(self) -> int:
        """How many files, or parts of them, were not used so far, for whatever reason."""
        ...

    def summary(self) -> str:
        """How many files were not used so far, why, and the first few of them."""
        ...


@runtime_checkable
class Ordered(Protocol):
    """A dataset whose items must not come in any order, because of where they are read from."""

    def sampler(self, *, shuffle: bool, seed: int | None, drop_last: bool, batch_size: int, num_workers: int) -> Any:
        """The `ResumableSampler` of its loader."""
        ...


@runtime_checkable
class Weighted(Protocol):
    """A dataset whose items are not all to be drawn equally often."""

    sample_weights: Tensor | None
    """(N,) how often each item is drawn, relative to others; None if equally often."""


__all__ = ["DATASETS", "ItemDataset", "ItemKey", "Ordered", "Summarised", "Weighted"]
