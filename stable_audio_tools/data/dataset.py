"""From a dataset config to a loader: the function that users' scripts call."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from stable_audio_tools.config.check import refuse_dataset_mistakes
from stable_audio_tools.config.source import Source, read_source
from stable_audio_tools.data.audio_dir import SampleDataset
from stable_audio_tools.data.file_table import LocalDatasetConfig
from stable_audio_tools.data.files import fast_scandir
from stable_audio_tools.data.loader import ResumableLoader, collation_fn, make_loader
from stable_audio_tools.data.pre_encoded import PreEncodedDataset
from stable_audio_tools.errors import DataError
from stable_audio_tools.families import DATASETS
from stable_audio_tools.registry.schema import without_comments


def create_dataloader_from_config(
    dataset_config: Mapping[str, Any] | str | Path | Source,
    batch_size: int,
    sample_size: int,
    sample_rate: int,
    audio_channels: int = 2,
    num_workers: int = 4,
    shuffle: bool = True,
    seed: int | None = None,
    tokenizers: Any = None,
) -> ResumableLoader:
    """Make the loader that a dataset config describes.

    Args:
        dataset_config: A dataset config, or the path of its JSON file.
        batch_size: Items per batch and process.
        sample_size: Length of each item, in samples.
        sample_rate: In Hz.
        audio_channels: Channels of each item.
        num_workers: Processes that load data; 0 loads in this one.
        shuffle: Whether to shuffle.
        seed: Of the order and of the crops; None draws one from torch's global stream.
        tokenizers: Has no effect: texts stay texts, which conditioners read themselves. Accepted since published scripts pass it.

    Raises:
        ConfigError: With every mistake in the config.
        DataError: If there is no data, or less than one batch of it, or a number is out of range.
    """
    for name, number, least in (("batch_size", batch_size, 1), ("num_workers", num_workers, 0)):
        if not isinstance(number, Integral) or number < least:
            raise DataError(f"{name} must be a whole number of at least {least}, got {number!r}")
    source = read_source(dataset_config, name="dataset config")
    dataset: Any = create_dataset_from_config(source, sample_size, sample_rate, audio_channels)
    drop_last = source.data.get("drop_last", True)
    if drop_last and len(dataset) < batch_size:
        files = "1 file does" if len(dataset) == 1 else f"{len(dataset)} files do"
        raise DataError(f'{source.name}: {files} not fill a batch of {batch_size}; use a smaller batch size or set "drop_last": false')
    return make_loader(dataset, batch_size=batch_size, num_workers=num_workers, shuffle=shuffle, drop_last=drop_last, seed=seed)


def create_dataset_from_config(
    dataset_config: Mapping[str, Any] | str | Path | Source, sample_size: int, sample_rate: int, audio_channels: int = 2
) -> Dataset[Any]:
    """Make the dataset that a dataset config describes, without a loader.

    Args:
        dataset_config: A dataset config, or the path of its JSON file.
        sample_size: Length of each item, in samples.
        sample_rate: In Hz.
        audio_channels: Channels of each item.

    Raises:
        ConfigError: With every mistake in the config.
        DataError: If there is no data.
    """
    source = read_source(dataset_config, name="dataset config")
    refuse_dataset_mistakes(source)
    config = without_comments(source.data)
    return DATASETS.build(
        config.pop("dataset_type"),
        config,
        sample_size=sample_size,
        sample_rate=sample_rate,
        audio_channels=audio_channels,
        base_dir=source.folder,
    )


__all__ = [
    "LocalDatasetConfig", "PreEncodedDataset", "SampleDataset", "collation_fn", "create_dataloader_from_config",
    "create_dataset_from_config", "fast_scandir",
]  # fmt: skip
