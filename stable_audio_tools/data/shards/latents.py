"""Shards of latents: samples of ``.npy`` and ``.json``."""

from __future__ import annotations

import io
import json
import random
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from stable_audio_tools.data.audio_dir import MAX_ATTEMPTS
from stable_audio_tools.data.base import ItemDataset, ItemKey
from stable_audio_tools.data.file_states import UNREADABLE, FileStates
from stable_audio_tools.data.latent_crop import crop_latents
from stable_audio_tools.data.latent_store import DETAILS, SILENCE, LatentStore
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


class ShardLatents(ItemDataset):
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

    def __getitem__(self, key: int | ItemKey) -> tuple[Tensor, dict[str, Any]]:
        key = key if isinstance(key, ItemKey) else ItemKey(key, 0, random.getrandbits(31))
        rng = random.Random(f"{key.seed}/{key.epoch}/{key.index}/{key.draw}")
        index, reason = key.index, ""
        for _ in range(MAX_ATTEMPTS):
            if int(self.states.lengths[index]) != UNREADABLE:
                item, reason = self._item(index, rng)
                if item is not None:
                    return item
            index = rng.randrange(len(self))
        raise DataError(f"no usable latents found in {len(self)} samples: {self.states.summary()}{f'; last: {reason}' if reason else ''}")

    def _item(self, index: int, rng: random.Random) -> tuple[tuple[Tensor, dict[str, Any]] | None, str]:
        """The item, or None and why there is none."""
        file = self.files[index]
        try:
            latents, metadata = self._read(file)
            self.states.lengths[index] = latents.shape[-1]
            latents = crop_latents(
                latents, metadata, cast("LatentStore", self._beside[file.source.url]), self.crop_length, rng if self.random_crop else None
            )  # (D, L)
        except (AudioError, DataError) as error:
            if not isinstance(error, AudioError) and not str(error).startswith(file.path):
                raise  # of the connection, not of the sample
            self.states.condemn(index, AudioError(str(error)))
            return None, str(error)
        metadata |= (file.custom_metadata(metadata, latents) if file.custom_metadata is not None else None) or {}
        seconds = metadata.get("seconds_total")
        is_out = seconds is not None and not self.bounds[0] <= seconds <= self.bounds[1]
        if metadata.pop("__reject__", False) or is_out:
            self.states.rejected[index] = True
            return None, f"{file.path}: rejected {'for its length' if is_out else 'by the metadata module'}"
        latents = self._replaced(file, latents, metadata.pop("__replace__", None))
        metadata["audio"] = latents
        return (latents, metadata), ""

    @staticmethod
    def _read(file: ShardFile) -> tuple[Tensor, dict[str, Any]]:
        file.reader.check(file.shard, file.content)
        latents = _latents(file.reader.read(file.shard, file.content), file.path)
        said = file.metadata()
        if said.get("stored") == "mean-scale":
            raise DataError(f"{file.shard.url}: holds mean and scale; shards are of latents: pre-encode with the mean or a sample")
        return latents, {**said, **file.described(), "latent_filename": file.path}

    @staticmethod
    def _replaced(file: ShardFile, latents: Tensor, given: Any) -> Tensor:
        if given is None:
            return latents
        if not isinstance(given, Tensor) or given.dim() != 2:
            shape = tuple(given.shape) if isinstance(given, Tensor) else type(given).__name__
            raise DataError(f"{file.path}: __replace__ is a tensor of latents (channels, frames), got {shape}")
        return given


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
