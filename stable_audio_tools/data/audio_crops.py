"""Folders of audio files of which every part is an item: long files as several crops, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stable_audio_tools.config.base import ListFile, NonNegativeFloat, Pair, PositiveInt, Probability
from stable_audio_tools.config.dataset import AudioFolder
from stable_audio_tools.data.audio_dir import SampleDataset, local_config
from stable_audio_tools.data.file_table import LocalDatasetConfig
from stable_audio_tools.data.files import path_lists
from stable_audio_tools.data.replacing import Unusable
from stable_audio_tools.errors import DataError
from stable_audio_tools.families import DATASETS


class CropsDataset(SampleDataset):
    """All crops of all files; the last of a file is padded.

    Args:
        configs: Folders.
        sample_size: Length of the crops, in samples.
        sample_rate: Rate of the result, in Hz.
        force_channels: ``"mono"``, ``"stereo"``, or a number of channels.
        augment_phase: Flip the polarity of half of the items.
        overlap_sec: Seconds that crops share with the one before.
        min_crop_sec: Leave out the last crop of a file if less than this of it is audio; a file's first crop is always there.
        **options: As for `SampleDataset`.

    Raises:
        DataError: If crops do not move on, or there are no files.
    """

    def __init__(
        self,
        configs: Sequence[LocalDatasetConfig],
        sample_size: int = 65536,
        sample_rate: int = 48000,
        force_channels: str | int = "stereo",
        augment_phase: bool = False,
        overlap_sec: float = 0.0,
        min_crop_sec: float = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(configs, sample_size, sample_rate, False, force_channels, augment_phase, **options)
        hop = sample_size - round(overlap_sec * sample_rate)
        if hop < 1:
            raise DataError(f"overlap_sec: {overlap_sec:g} s is no less than a crop, which has {sample_size / sample_rate:g} s")
        least = max(round(min_crop_sec * sample_rate), 1)
        totals = self.totals()
        crops = [
            (owner, start)
            for owner, total in enumerate(totals)
            for start in range(0, max(total, 1), hop)
            if start == 0 or (total - start >= least and total - start > sample_size - hop)  # not only what the one before holds too
        ]
        self.owners = torch.tensor([owner for owner, _ in crops])  # files, by crop
        self.starts = torch.tensor([start for _, start in crops])
        self.sample_weights = None if self.sample_weights is None else self.sample_weights[self.owners]

    def name(self, index: int) -> str:
        """The path of the crop's file."""
        return super().name(int(self.owners[index]))

    @property
    def lengths(self) -> Tensor:
        """Samples per channel of the file of each crop; negative where it is not known, or the file cannot be decoded."""
        return self.states.lengths[self.owners]

    def __len__(self) -> int:
        return len(self.owners)

    def is_unreadable(self, index: int) -> bool:
        return super().is_unreadable(int(self.owners[index]))

    def attempt(self, index: int, rng: Any, length: int | None) -> tuple[Tensor, dict[str, Any]] | Unusable:
        return self._item(int(self.owners[index]), rng, length or self.sample_size, int(self.starts[index]))


@DATASETS.register("audio_crops")
def audio_crops(
    datasets: list[AudioFolder],
    sample_size: int,
    sample_rate: PositiveInt,
    audio_channels: PositiveInt,
    base_dir: Path | None,
    overlap_sec: NonNegativeFloat = 0.0,
    min_crop_sec: NonNegativeFloat = 1.0,
    drop_last: bool = True,
    augment_phase: bool = False,
    volume_norm: bool = False,
    volume_norm_param: Pair = (-16, 2),
    strip_silence: bool = False,
    silence_threshold_db: float | None = -60.0,
    max_unreadable_share: Probability = 0.25,
    exclude_paths_file: ListFile | None = None,
    include_paths_file: ListFile | None = None,
    cache_mb: NonNegativeFloat = 0.0,
) -> CropsDataset:
    """Folders of audio files, of which every part is an item.

    Args:
        datasets: The folders.
        sample_size: Length of the crops, in samples.
        sample_rate: Rate of the result, in Hz.
        audio_channels: 1 makes everything mono, 2 stereo.
        base_dir: Folder of the config file, for relative paths.
        overlap_sec: Seconds that crops share with the one before.
        min_crop_sec: Leave out the last crop of a file if less than this of it is audio, in seconds; its first crop is always there.
        drop_last: Leave out the last batch of a pass if it is not full. Read by the loader.
        augment_phase: Flip the polarity of half of the items.
        volume_norm: Bring each file to a loudness (ITU-R BS.1770), as far as its peaks allow.
        volume_norm_param: That loudness in LUFS, and by how many LU it varies at random, up or down.
        strip_silence: Leave out the silent end of files, if it is 0.1 s or longer.
        silence_threshold_db: Crops whose peak is below this are replaced, in dB of full scale; null keeps all.
        max_unreadable_share: If more of the files that were met cannot be decoded, training stops; 1 goes on with what is left.
        exclude_paths_file: A list of files to leave out, one path or name per line.
        include_paths_file: A list of the only files to use.
        cache_mb: Memory in each worker, in MB, for decoded files of up to four crops, so that short sounds are decoded once and not for
            each crop and pass; 0 keeps none.
    """
    configs = [local_config(folder, base_dir) for folder in datasets]
    exclude, include = path_lists(exclude_paths_file, include_paths_file, base_dir)
    return CropsDataset(
        configs,
        sample_size,
        sample_rate,
        audio_channels,
        augment_phase,
        overlap_sec,
        min_crop_sec,
        volume_norm=volume_norm,
        volume_norm_param=volume_norm_param,
        strip_silence=strip_silence,
        silence_threshold_db=silence_threshold_db,
        max_unreadable_share=max_unreadable_share,
        exclude_paths=exclude,
        include_paths=include,
        cache_mb=cache_mb,
    )
