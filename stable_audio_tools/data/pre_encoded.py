"""Folders of pre-encoded items: latents or tokens, and metadata, so that training never sees audio."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stable_audio_tools.config.base import ListFile, PositiveFloat, PositiveInt
from stable_audio_tools.config.dataset import LatentFolder, resolve
from stable_audio_tools.data.buckets import BucketedDataset
from stable_audio_tools.data.file_table import LocalDatasetConfig
from stable_audio_tools.data.files import path_lists
from stable_audio_tools.data.latent_crop import crop_latents
from stable_audio_tools.data.latent_lists import choose_latents
from stable_audio_tools.data.latent_store import LatentStore
from stable_audio_tools.data.metadata import CustomMetadata, MetadataModule
from stable_audio_tools.data.replacing import Unusable, described_latents
from stable_audio_tools.errors import DataError
from stable_audio_tools.families import DATASETS
from stable_audio_tools.models.bottlenecks.vae import vae_deviation

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LatentOptions:
    """What is done to every item of a `PreEncodedDataset`.

    Attributes:
        latent_crop_length: Frames per item: longer ones are cropped, shorter ones padded. None is the length of a whole crop.
        random_crop: Crop at a random place, rather than from the start.
        length_buckets: Frames; batches have one of these lengths each.
        sample: Where mean and scale are stored, draw latents anew each time; otherwise take the mean.
        cached_conditions: Metadata keys whose text is replaced by its cached embedding.
    """

    latent_crop_length: int | None = None
    random_crop: bool = False
    length_buckets: Sequence[int] = ()
    sample: bool = True
    cached_conditions: Sequence[str] = ()


@dataclass(frozen=True)
class _File:
    path: Path
    store: LatentStore
    custom_metadata: CustomMetadata | None
    weight: float


class PreEncodedDataset(BucketedDataset):
    """Latents (D, L) or tokens (K, L), and the metadata that they were stored with.

    Files that cannot be read, and items that a metadata module rejects, are replaced by another item, and counted (`summary`).

    Args:
        configs: Folders.
        latent_crop_length: Frames per item; None is the length of a whole crop.
        min_length_sec: Leave out clips that are shorter, by their ``seconds_total``.
        max_length_sec: Leave out clips that are longer.
        random_crop: Crop at a random place, rather than from the start.
        latent_extension: ``npy`` or ``safetensors``; None is what each folder says.
        options: All but these, instead of ``latent_crop_length`` and ``random_crop``.
        stores: The folders, if they were opened before.
        sample_rate: Of the model, in Hz, to be compared with that of the folders.

    Raises:
        DataError: If a folder holds no latents, or they do not go together.
    """

    def __init__(
        self,
        configs: Sequence[LocalDatasetConfig],
        latent_crop_length: int | None = None,
        min_length_sec: float | None = None,
        max_length_sec: float | None = None,
        random_crop: bool = False,
        latent_extension: str | None = None,
        *,
        options: LatentOptions | None = None,
        stores: Sequence[LatentStore] | None = None,
        sample_rate: int | None = None,
    ) -> None:
        super().__init__()
        self.options = options or LatentOptions(latent_crop_length, random_crop)
        opened = stores if stores is not None else [LatentStore(Path(config.path), latent_extension) for config in configs]
        if not opened:
            raise DataError("datasets: the list is empty; give at least one folder of pre-encoded items")
        _refuse_mixtures(opened, sample_rate)
        pairs = zip(opened, configs, strict=True)
        self.files = [_File(path, store, config.custom_metadata_fn, config.weight) for store, config in pairs for path in store.paths]
        lengths = [frames for store in opened for frames in store.real_lengths()] if self.options.length_buckets else None
        if min_length_sec is not None or max_length_sec is not None:
            low, high = min_length_sec or 0.0, max_length_sec if max_length_sec is not None else math.inf
            seconds = [metadata.get("seconds_total", math.nan) for store in opened for metadata in store.all_metadata()]
            kept = [index for index, length in enumerate(seconds) if low <= length <= high]
            logger.info("%d of %d items last %g to %g s", len(kept), len(self.files), low, high)
            if not kept:
                raise DataError(f"none of {len(self.files)} items has a seconds_total of {low:g} to {high:g}; see min_ and max_length_sec")
            self.files = [self.files[index] for index in kept]
            lengths = [lengths[index] for index in kept] if lengths is not None else None
        is_weighted = len({config.weight for config in configs}) > 1
        self.sample_weights = torch.tensor([file.weight for file in self.files], dtype=torch.float64) if is_weighted else None
        if lengths is not None:
            self.set_buckets(self.options.length_buckets, lengths)
        # What could not be used, shared by all workers of this process.
        self.unreadable = torch.zeros(len(self.files), dtype=torch.bool).share_memory_()
        self.rejected = torch.zeros(len(self.files), dtype=torch.bool).share_memory_()

    @property
    def filenames(self) -> list[str]:
        """Paths of all files."""
        return [str(file.path) for file in self.files]

    def __len__(self) -> int:
        return len(self.files)

    def is_unreadable(self, index: int) -> bool:
        return bool(self.unreadable[index])

    def has_readable(self) -> bool:
        return not bool(self.unreadable.all())

    def attempt(self, index: int, rng: Any, length: int | None) -> tuple[Tensor, dict[str, Any]] | Unusable:
        file = self.files[index]
        try:
            latents, metadata = file.store.latents(file.path), file.store.metadata(file.path)
        except DataError as error:
            self.unreadable[index] = True
            logger.warning("skipped: %s", error)
            return Unusable(str(error))
        metadata["latent_filename"] = str(file.path)
        wanted = length or self.options.latent_crop_length
        latents = crop_latents(latents, metadata, file.store, wanted, rng if self.options.random_crop else None)
        kind = metadata.get("stored", file.store.card.get("store"))
        if kind == "mean-scale":
            mean, scale = latents.chunk(2)
            noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(rng.getrandbits(63))) if self.options.sample else 0
            latents = mean + vae_deviation(scale) * noise
        item = described_latents(latents, metadata, file.path, file.custom_metadata)
        if isinstance(item, Unusable):
            self.rejected[index] = True
            return item
        for name in self.options.cached_conditions:
            _use_cached(item[1], name, file)
        return item

    @property
    def num_unreadable(self) -> int:
        """How many files have turned out to be unreadable so far."""
        return int(self.unreadable.sum())

    @property
    def num_skipped(self) -> int:
        """How many items were unreadable or rejected so far."""
        return int((self.unreadable | self.rejected).sum())

    def summary(self) -> str:
        """How many items were unreadable or rejected so far, and the first few of each."""
        text = f"{self.num_unreadable} of {len(self.files)} files unreadable{self._first(self.unreadable)}"
        return text + (f"; {int(self.rejected.sum())} rejected{self._first(self.rejected)}" if self.rejected.any() else "")

    def _first(self, chosen: Tensor) -> str:
        indices = chosen.nonzero().flatten().tolist()
        names = ", ".join(str(self.files[index].path) for index in indices[:5]) + (", ..." if len(indices) > 5 else "")
        return f" ({names})" if indices else ""


def _use_cached(metadata: dict[str, Any], name: str, file: _File) -> None:
    text = metadata.get(name)
    if not isinstance(text, str):
        raise DataError(f"{file.path}: cached_conditions: {name!r} is no text: {text!r:.60}")
    metadata[f"{name}_text"] = text
    metadata[name] = file.store.condition(name, text)


def _refuse_mixtures(stores: Sequence[LatentStore], sample_rate: int | None) -> None:
    """Refuse folders whose items cannot share a batch, before training begins."""
    kinds: Counter[tuple[Any, ...]] = Counter()
    named: dict[tuple[Any, ...], Path] = {}
    for store in stores:
        channels = store.channels
        is_pair = store.card.get("store") == "mean-scale"
        kind = (channels // 2 if is_pair else channels, store.card.get("model", {}).get("hash"))
        kinds[kind] += 1
        named.setdefault(kind, store.folder)
        rate = store.card.get("sample_rate")
        if sample_rate is not None and rate is not None and rate != sample_rate:
            raise DataError(f"{store.folder}: was encoded at {rate} Hz, but the model works at {sample_rate} Hz")
    if len({kind[0] for kind in kinds}) > 1:
        texts = ", ".join(f"{folder} {kind[0]}" for kind, folder in named.items())
        raise DataError(f"the folders hold latents of different widths: {texts}; they were encoded by different models")
    if len({kind[1] for kind in kinds if kind[1]}) > 1:
        raise DataError(f"the folders were encoded by different models, by their card.json: {', '.join(map(str, named.values()))}")


@DATASETS.register("pre_encoded", latents=True)
def pre_encoded(
    datasets: list[LatentFolder],
    sample_rate: PositiveInt,
    base_dir: Path | None,
    latent_crop_length: PositiveInt | None = None,
    min_length_sec: PositiveFloat | None = None,
    max_length_sec: PositiveFloat | None = None,
    random_crop: bool = False,
    drop_last: bool = True,
    latent_extension: str | None = None,
    length_buckets: list[PositiveInt] | None = None,
    sample: bool = True,
    cached_conditions: list[str] | None = None,
    exclude_paths_file: ListFile | None = None,
    include_paths_file: ListFile | None = None,
) -> PreEncodedDataset:
    """Folders of pre-encoded items: latents, or tokens.

    Args:
        datasets: The folders.
        sample_rate: Of the model, in Hz.
        base_dir: Folder of the config file, for relative paths.
        latent_crop_length: Frames per item: longer ones are cropped, shorter ones padded. None is the length of a whole crop.
        min_length_sec: Leave out clips that are shorter, in seconds.
        max_length_sec: Leave out clips that are longer, in seconds.
        random_crop: Crop at a random place, rather than from the start.
        drop_last: Leave out the last batch of a pass if it is not full. Read by the loader.
        latent_extension: ``npy`` or ``safetensors``; None is what each folder says.
        length_buckets: Frames; batches have one of these lengths each, so that short items are not padded to the longest.
        sample: Where mean and scale are stored, draw latents anew each time; otherwise take the mean.
        cached_conditions: Metadata keys whose text is replaced by its cached embedding; for ``pre_encoded_keys`` of the model.
        exclude_paths_file: A list of items to leave out, one path or name per line: of the latents, or of their audio.
        include_paths_file: A list of the only items to use.
    """
    if latent_crop_length is not None and length_buckets:
        raise DataError("latent_crop_length and length_buckets both say how long items are; give one of them")
    configs, stores = [], []
    for folder in datasets:
        path = resolve(folder.path, base_dir)
        module = MetadataModule(resolve(folder.custom_metadata_module, base_dir)) if folder.custom_metadata_module else None
        if module is not None:
            module.load()  # only to find its mistakes now: each worker runs it anew
        configs.append(LocalDatasetConfig(folder.id, str(path), module, weight=folder.weight))
        filelist = resolve(folder.filelist_path, base_dir) if folder.filelist_path else None
        stores.append(LatentStore(path, folder.latent_extension or latent_extension, filelist))
    choose_latents(stores, *path_lists(exclude_paths_file, include_paths_file, base_dir))
    options = LatentOptions(latent_crop_length, random_crop, length_buckets or (), sample, cached_conditions or ())
    return PreEncodedDataset(
        configs, min_length_sec=min_length_sec, max_length_sec=max_length_sec, options=options, stores=stores, sample_rate=sample_rate
    )
