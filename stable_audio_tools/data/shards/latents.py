"""Shards of latents: samples of ``.npy`` and ``.json``."""

from __future__ import annotations

import io
import json
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from stable_audio_tools.data.file_states import UNREADABLE, FileStates
from stable_audio_tools.data.latent_crop import crop_latents
from stable_audio_tools.data.latent_store import DETAILS, SILENCE, LatentStore
from stable_audio_tools.data.replacing import ReplacingDataset, Unusable, described_latents
from stable_audio_tools.data.shards.files import ShardFile, ShardFiles, ShardSource
from stable_audio_tools.errors import AudioError, DataError


class _Beside(NamedTuple):
    """What lies beside the shards of a source, and is about all its latents."""

    sample_size: int | None
    silence: Tensor | None

    @classmethod
    def of(cls, source: ShardSource) -> _Beside:
        is_file = source.url.endswith((".tar", ".json"))
        folder = source.url.rsplit("/", 1)[0] if is_file else source.url.rstrip("/")
        details = source.storage.read_whole(f"{folder}/{DETAILS}")
        silence = source.storage.read_whole(f"{folder}/{SILENCE}.npy")
        size = json.loads(details).get("sample_size") if details else None
        return cls(size, _latents(silence, f"{folder}/{SILENCE}.npy") if silence else None)


class ShardLatents(ReplacingDataset):
    """Latents (D, L), and the metadata that they were stored with.

    Samples that cannot be read, and those that are too short, too long or rejected, are replaced by another one, and counted.

    Args:
        files: The samples.
        crop_length: Frames per item: longer ones are cropped, shorter ones padded. None is the length of a whole crop.
        random_crop: Crop at a random place, rather than from the start.
        min_length_sec: Leave out clips that are shorter, by their ``seconds_total``.
        max_length_sec: Leave out clips that are longer.
        max_unreadable_share: If more of the samples that were met cannot be read, that is an error.
    """

    def __init__(
        self,
        files: ShardFiles,
        *,
        crop_length: int | None = None,
        random_crop: bool = True,
        min_length_sec: float | None = None,
        max_length_sec: float | None = None,
        max_unreadable_share: float = 0.1,
    ) -> None:
        super().__init__()
        self.files = files
        self.states = FileStates(files, max_unreadable_share)
        self.crop_length = crop_length
        self.random_crop = random_crop
        self.bounds = (min_length_sec or 0.0, float("inf") if max_length_sec is None else max_length_sec)
        self._beside = {source.url: _Beside.of(source) for source in files.sources}

    def __len__(self) -> int:
        return len(self.files)

    def is_unreadable(self, index: int) -> bool:
        return int(self.states.lengths[index]) == UNREADABLE

    def has_readable(self) -> bool:
        return bool((self.states.lengths != UNREADABLE).any())

    def summary(self) -> str:
        """How many samples could not be read or were rejected so far, and the first few of each."""
        return self.states.summary()

    def attempt(self, index: int, rng: Any, length: int | None) -> tuple[Tensor, dict[str, Any]] | Unusable:
        file = self.files[index]
        try:
            latents, metadata = self._read(file)
            self.states.lengths[index] = latents.shape[-1]
            latents = crop_latents(
                latents, metadata, cast("LatentStore", self._beside[file.source.url]), length or self.crop_length,
                rng if self.random_crop else None,
            )  # (D, L)  # fmt: skip
        except (AudioError, DataError) as error:
            if not isinstance(error, AudioError) and not str(error).startswith(file.path):
                raise  # of the connection, not of the sample
            self.states.condemn(index, AudioError(str(error)))
            return Unusable(str(error))
        item = described_latents(latents, metadata, file.path, file.custom_metadata)
        seconds = None if isinstance(item, Unusable) else item[1].get("seconds_total")
        if seconds is not None and not self.bounds[0] <= seconds <= self.bounds[1]:
            item = Unusable(f"{file.path}: rejected for its length")
        if isinstance(item, Unusable):
            self.states.rejected[index] = True
        return item

    @staticmethod
    def _read(file: ShardFile) -> tuple[Tensor, dict[str, Any]]:
        file.reader.check(file.shard, file.content)
        latents = _latents(file.reader.read(file.shard, file.content), file.path)
        said = file.metadata()
        if said.get("stored") == "mean-scale":
            raise DataError(f"{file.shard.url}: holds mean and scale; shards are of latents: pre-encode with the mean or a sample")
        return latents, {**said, **file.described(), "latent_filename": file.path}


def _latents(data: bytes, name: str) -> Tensor:
    """Latents (D, L) of an ``.npy`` file."""
    try:
        latents = torch.from_numpy(np.load(io.BytesIO(data)))
    except (ValueError, EOFError, TypeError, OSError) as error:
        raise AudioError(f"{name}: cannot be read as latents: {error}") from error
    latents = latents[0] if latents.dim() == 3 and latents.shape[0] == 1 else latents
    if latents.dim() != 2 or not latents.shape[-1]:
        raise AudioError(f"{name}: latents are (channels, frames), got shape {tuple(latents.shape)}")
    return latents.float() if latents.is_floating_point() else latents
