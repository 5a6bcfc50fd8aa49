"""Folders of audio files."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stable_audio_tools.audio import CropPlan, apply_crop, force_channels, load, pad_crop, plan_crop, probe
from stable_audio_tools.config.base import PositiveInt
from stable_audio_tools.config.dataset import AudioFolder, resolve
from stable_audio_tools.data.base import ItemDataset, ItemKey
from stable_audio_tools.data.files import find_audio_files
from stable_audio_tools.data.metadata import Captions, CustomMetadata, MetadataModule
from stable_audio_tools.errors import AudioError, DataError
from stable_audio_tools.families import DATASETS

logger = logging.getLogger(__name__)
SILENCE_DB = -60.0
MAX_ATTEMPTS = 200  # crops tried before giving up on finding a usable one
UNKNOWN, UNREADABLE = -1, -2  # instead of a length, in the table that all workers share


class LocalDatasetConfig:
    """One folder, as `SampleDataset` takes it.

    Args:
        id: A name, for people.
        path: The folder.
        custom_metadata_fn: Called with the metadata so far and the audio (C, T); returns more metadata. ``__reject__: True`` in it leaves
            the item out; ``__audio__`` holds further audio by name, which is cropped like the item and joins the metadata.
        captions: Metadata from files beside the audio.
    """

    def __init__(
        self,
        id: str,  # noqa: A002
        path: str,
        custom_metadata_fn: CustomMetadata | None = None,
        captions: Captions | None = None,
    ) -> None:
        self.id = id
        self.path = path
        self.custom_metadata_fn = custom_metadata_fn
        self.captions = captions


@dataclass(frozen=True)
class _File:
    path: Path
    folder: Path
    captions: Captions | None
    custom_metadata: CustomMetadata | None


class SampleDataset(ItemDataset):
    """Crops of audio files; only the crop is decoded.

    Files that cannot be decoded, and crops that are silent (below -60 dB) or rejected, are replaced by another item, remembered, and
    counted (`summary`). If nothing usable is found, that is an error.

    Args:
        configs: Folders.
        sample_size: Length of the crops, in samples.
        sample_rate: Rate of the result, in Hz.
        random_crop: Crop at a random place, rather than from the start.
        force_channels: ``"mono"``, ``"stereo"``, or a number of channels.
        augment_phase: Flip the polarity of half of the items.
    """

    def __init__(
        self,
        configs: Sequence[LocalDatasetConfig],
        sample_size: int = 65536,
        sample_rate: int = 48000,
        random_crop: bool = True,
        force_channels: str | int = "stereo",
        augment_phase: bool = True,
    ) -> None:
        super().__init__()
        self.sample_size = sample_size
        self.sample_rate = sample_rate
        self.random_crop = random_crop
        names = {"mono": 1, "stereo": 2}
        if isinstance(force_channels, str) and force_channels not in names:
            raise DataError(f"force_channels must be 'mono', 'stereo' or a number, got {force_channels!r}")
        self.num_channels = names[force_channels] if isinstance(force_channels, str) else force_channels
        for name, number in (("sample_size", sample_size), ("sample_rate", sample_rate), ("force_channels", self.num_channels)):
            if not isinstance(number, Integral) or number < 1:
                raise DataError(f"{name} must be a whole number of at least 1, got {number!r}")
        self.augment_phase = augment_phase
        if not configs:
            raise DataError("datasets: the list is empty; give at least one folder")
        self.files = [file for config in configs for file in _files_of(config)]
        if not self.files:
            raise DataError(f"no audio files in {', '.join(str(config.path) for config in configs)}")
        logger.info("found %d audio files", len(self.files))
        # Frames of each file at its own rate, or why it is not used; shared by all workers of this process.
        self.lengths = torch.full((len(self.files),), UNKNOWN, dtype=torch.int64).share_memory_()
        self.rates = torch.zeros(len(self.files), dtype=torch.int64).share_memory_()
        # Files of which a crop was silent, or rejected by their metadata module; other crops of them may be used.
        self.silent = torch.zeros(len(self.files), dtype=torch.bool).share_memory_()
        self.rejected = torch.zeros(len(self.files), dtype=torch.bool).share_memory_()

    @property
    def filenames(self) -> list[str]:
        """Paths of all files."""
        return [str(file.path) for file in self.files]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, key: int | ItemKey) -> tuple[Tensor, dict[str, Any]]:
        index = key.index if isinstance(key, ItemKey) else key
        reason, tried = "", 0
        for attempt, candidate in enumerate(self._candidates(index, _stream(key, "order"))):
            if int(self.lengths[candidate]) == UNREADABLE:
                continue
            item, why = self._item(candidate, _stream(key, attempt))
            if item is not None:
                return item
            reason, tried = why, tried + 1
            if tried == MAX_ATTEMPTS:
                break
        raise DataError(f"no usable audio found in {len(self.files)} files: {self.summary()}{f'; last: {reason}' if reason else ''}")

    def exactly(self, key: int | ItemKey) -> tuple[tuple[Tensor, dict[str, Any]] | None, str]:
        return self._item(key.index if isinstance(key, ItemKey) else key, _stream(key, 0))

    def _candidates(self, index: int, rng: Any) -> Iterator[int]:
        """The item asked for, then those that may take its place, again and again: another crop of a file may not be silent."""
        yield index
        count = len(self.files)
        while bool((self.lengths != UNREADABLE).any()):
            yield from rng.sample(range(count), min(count, MAX_ATTEMPTS))

    def _item(self, index: int, rng: Any) -> tuple[tuple[Tensor, dict[str, Any]] | None, str]:
        """The item, or None and why there is none."""
        file = self.files[index]
        started = time.perf_counter()
        try:
            if int(self.lengths[index]) < 0:
                info = probe(file.path)
                self.rates[index], self.lengths[index] = info.sample_rate, info.num_frames
            total = -(-int(self.lengths[index]) * self.sample_rate // int(self.rates[index]))  # at our rate, rounded up
            plan = self._plan(index, total, rng)
            span = load(file.path, start=plan.start, num_frames=self.sample_size, sample_rate=self.sample_rate)
        except AudioError as error:
            self.lengths[index] = UNREADABLE
            logger.warning("skipped: %s", error)
            return None, str(error)
        crop = apply_crop(span.samples, plan)
        if float(crop.audio.abs().max()) < 10 ** (SILENCE_DB / 20):
            self.silent[index] = True
            return None, f"{file.path}: silent from {plan.seconds_start} s"
        polarity = -1.0 if self.augment_phase and rng.random() < 0.5 else 1.0
        audio = force_channels((crop.audio * polarity).clamp(-1, 1), self.num_channels)  # (C, T)
        metadata: dict[str, Any] = {
            "path": str(file.path),
            "relpath": file.path.relative_to(file.folder).as_posix(),
            "timestamps": (crop.t_start, crop.t_end),
            "seconds_start": crop.seconds_start,
            "seconds_total": crop.seconds_total,
            "padding_mask": crop.padding_mask,
            "sample_rate": self.sample_rate,
            "load_time": time.perf_counter() - started,
        }
        if file.captions is not None:
            metadata |= file.captions(file.path)
        if file.custom_metadata is not None:
            metadata |= file.custom_metadata(metadata, audio) or {}
        if metadata.pop("__reject__", False):
            self.rejected[index] = True
            return None, f"{file.path}: rejected by the metadata module"
        for name, extra in _further_audio(file, metadata.pop("__audio__", {})).items():
            start = min(plan.start, extra.shape[-1])
            cropped = pad_crop(extra, self.sample_size, start=start).audio * polarity
            metadata[name] = force_channels(cropped.clamp(-1, 1), self.num_channels)
        return (audio, metadata), ""

    def _plan(self, index: int, total: int, rng: Any) -> CropPlan:
        """Which part of a file of ``total`` samples an item is."""
        return plan_crop(total, self.sample_size, self.sample_rate, randomize=self.random_crop, rng=rng)

    @property
    def num_unreadable(self) -> int:
        """How many files have turned out to be unreadable so far."""
        return int((self.lengths == UNREADABLE).sum())

    @property
    def num_skipped(self) -> int:
        """How many files were unreadable, or had a silent or rejected crop, so far."""
        return int(((self.lengths == UNREADABLE) | self.silent | self.rejected).sum())

    def summary(self) -> str:
        """How many files were unreadable, or had a silent or rejected crop, so far, and the first few of each."""
        text = f"{self.num_unreadable} of {len(self.files)} files unreadable{self._first(self.lengths == UNREADABLE)}"
        for what, affected in (("silent", self.silent), ("rejected", self.rejected)):
            if affected.any():
                text += f"; {int(affected.sum())} with {what} crops, which were replaced{self._first(affected)}"
        return text

    def _first(self, chosen: Tensor) -> str:
        """The first few of the chosen files, in brackets."""
        indices = chosen.nonzero().flatten().tolist()
        names = ", ".join(str(self.files[index].path) for index in indices[:5]) + (", ..." if len(indices) > 5 else "")
        return f" ({names})" if indices else ""


def _further_audio(file: _File, given: Any) -> Mapping[str, Tensor]:
    """What a metadata module returned as ``__audio__``, checked."""
    if not isinstance(given, Mapping):
        raise DataError(f"{file.path}: __audio__ is a dictionary of audio (C, T) by name, got {type(given).__name__}")
    for name, extra in given.items():
        if not isinstance(extra, Tensor) or extra.dim() != 2 or not extra.is_floating_point():
            shape = f"{extra.dtype} {tuple(extra.shape)}" if isinstance(extra, Tensor) else type(extra).__name__
            raise DataError(f"{file.path}: __audio__[{name!r}] is a float tensor (C, T), got {shape}")
    return given


def _stream(key: int | ItemKey, purpose: str | int) -> Any:
    """Randomness of one attempt at an item. A stream for each, so that a file which fails leaves no trace in what takes its place."""
    if not isinstance(key, ItemKey):
        return random
    return random.Random(f"{key.seed}/{key.epoch}/{key.index}{f'/{purpose}' if purpose else ''}")


def _files_of(config: LocalDatasetConfig) -> list[_File]:
    folder = Path(config.path)
    paths = find_audio_files(folder)
    if config.captions is not None:
        paths = config.captions.select(paths)
    return [_File(path, folder, config.captions, config.custom_metadata_fn) for path in paths]


@DATASETS.register("audio_dir")
def audio_dir(
    datasets: list[AudioFolder],
    sample_size: int,
    sample_rate: PositiveInt,
    audio_channels: PositiveInt,
    base_dir: Path | None,
    random_crop: bool = True,
    drop_last: bool = True,
    augment_phase: bool = True,
) -> SampleDataset:
    """Folders of audio files.

    Args:
        datasets: The folders.
        sample_size: Length of the crops, in samples.
        sample_rate: Rate of the result, in Hz.
        audio_channels: 1 makes everything mono, 2 stereo.
        base_dir: Folder of the config file, for relative paths.
        random_crop: Crop at a random place, rather than from the start.
        drop_last: Leave out the last batch of a pass if it is not full. Read by the loader.
        augment_phase: Flip the polarity of half of the items.
    """
    configs = [local_config(folder, base_dir) for folder in datasets]
    return SampleDataset(configs, sample_size, sample_rate, random_crop, audio_channels, augment_phase)


def local_config(folder: AudioFolder, base_dir: Path | None) -> LocalDatasetConfig:
    """One folder of a config, its metadata module tried out."""
    path = resolve(folder.path, base_dir)
    table = resolve(folder.captions_file, base_dir) if folder.captions_file else None
    module = MetadataModule(resolve(folder.custom_metadata_module, base_dir)) if folder.custom_metadata_module else None
    if module is not None:
        module.load()  # only to find its mistakes now: each worker runs it anew, since open files cannot be shared
    return LocalDatasetConfig(folder.id, str(path), module, Captions(path, table=table, caption=folder.caption))
