"""LatentDataset: pre-encoded items for training, wherever they lie: opened, checked, cropped and described."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stable_audio_tools.data.buckets import BucketedDataset
from stable_audio_tools.data.file_states import UNKNOWN, UNREADABLE, FileStates
from stable_audio_tools.data.file_table import KnownFiles
from stable_audio_tools.data.files import NUM_READERS
from stable_audio_tools.data.latent_crop import crop_latents, mask_of
from stable_audio_tools.data.latent_file import LatentFile, UnreadableError, read_latents, real_length
from stable_audio_tools.data.replacing import Unusable
from stable_audio_tools.data.store_facts import StoreFacts
from stable_audio_tools.errors import AudioError, DataError
from stable_audio_tools.models.bottlenecks.vae import vae_deviation

logger = logging.getLogger(__name__)
Found = TypeVar("Found")


@dataclass(frozen=True)
class LatentOptions:
    """What is done to every item of a `LatentDataset`.

    Attributes:
        latent_crop_length: Frames per item: longer ones are cropped, shorter ones padded. None is the length of a whole crop.
        random_crop: Crop at a random place, rather than from the start.
        length_buckets: Frames; batches have one of these lengths each.
        sample: Where mean and scale are stored, draw latents anew each time; otherwise take the mean.
        cached_conditions: Metadata keys whose text is replaced by its cached embedding.
        min_length_sec: Leave out clips that are shorter, by their ``seconds_total``; None has no bound.
        max_length_sec: Leave out clips that are longer; None has no bound.
        max_unreadable_share: From 0 to 1; if more of the files that were met cannot be read, that is an error.
    """

    latent_crop_length: int | None = None
    random_crop: bool = False
    length_buckets: Sequence[int] = ()
    sample: bool = True
    cached_conditions: Sequence[str] = ()
    min_length_sec: float | None = None
    max_length_sec: float | None = None
    max_unreadable_share: float = 0.25

    def __post_init__(self) -> None:
        if self.latent_crop_length is not None and self.length_buckets:
            raise DataError("latent_crop_length and length_buckets both say how long items are; give one of them")

    @property
    def has_bounds(self) -> bool:
        """Whether clips are chosen by their length."""
        return self.min_length_sec is not None or self.max_length_sec is not None

    @property
    def bounds(self) -> tuple[float, float]:
        """Seconds: no clip is shorter, and none is longer."""
        return self.min_length_sec or 0.0, math.inf if self.max_length_sec is None else self.max_length_sec


class LatentFiles(KnownFiles, Protocol):
    """The items of a dataset, store by store."""

    @property
    def stores(self) -> Sequence[StoreFacts]:
        """In the order of their items."""
        ...

    def __getitem__(self, index: int, /) -> LatentFile: ...

    def of_store(self, number: int) -> range:
        """The items of a store."""
        ...

    def near(self) -> NDArray[np.bool_]:
        """Which items are on this machine, so that all can be opened to find something out."""
        ...

    def read_lengths(self, *, need_all: bool) -> None:
        """Make what is written down of their lengths known.

        Raises:
            DataError: If all must be known, and there are some which are not, and which are not near.
        """
        ...

    def keep(self, kept: NDArray[np.bool_]) -> None:
        """Forget all items but those that are kept."""
        ...

    def weights(self) -> NDArray[np.float64] | None:
        """How often each is drawn, relative to others; None if equally often."""
        ...


class LatentDataset(BucketedDataset):
    """Latents (D, L) or tokens (K, L), and the metadata that they were stored with.

    Files that cannot be read, and items that a metadata module rejects, are replaced by another item, and counted (`summary`).

    Args:
        files: The items.
        options: What is done to each.
        sample_rate: Of the model, in Hz, to be compared with that of the stores; None compares nothing.

    Raises:
        DataError: If the stores do not go together, or no clip has a length that is wanted.
    """

    def __init__(self, files: LatentFiles, options: LatentOptions, sample_rate: int | None = None) -> None:
        super().__init__()
        self.files: LatentFiles = files
        self.options = options
        _refuse_mixtures(files, sample_rate)
        if options.has_bounds or options.length_buckets:
            files.read_lengths(need_all=bool(options.length_buckets))
        if options.has_bounds:
            self._choose_by_seconds()
        self.states = FileStates(files, options.max_unreadable_share)
        weights = files.weights()
        self.sample_weights = None if weights is None else torch.from_numpy(weights)
        if options.length_buckets:
            self.set_buckets(options.length_buckets, self._real_lengths())
        for store in files.stores:
            store.silence  # noqa: B018  # read here once, rather than by each worker

    def _choose_by_seconds(self) -> None:
        """Leave out clips that are too short or too long, as far as that can be known without fetching all of them."""
        files = self.files
        seconds, near = files.known("seconds_total", math.nan), files.near()
        unknown = np.flatnonzero(np.isnan(seconds) & near)
        seconds[unknown], errors = self._of_all(lambda file: file.metadata().get("seconds_total", math.nan), unknown, math.nan)
        low, high = self.options.bounds
        fits = ((low <= seconds) & (seconds <= high)) | (np.isnan(seconds) & ~near)
        logger.info("%d of %d items last %g to %g s", fits.sum(), len(fits), low, high)
        if not fits.any():
            hint = f"; {len(errors)} cannot be read, first {next(iter(errors.values()))}" if errors else ""
            raise DataError(f"none of {len(fits)} items has a seconds_total of {low:g} to {high:g}; see min_ and max_length_sec{hint}")
        fits[[*errors]] = True  # to be counted and named like any other when they are met
        files.keep(fits)

    def _real_lengths(self) -> list[int]:
        """Frames of each item that are not padding; 0 of those that cannot be read."""
        unknown = np.flatnonzero(self.states.lengths.numpy() == UNKNOWN)
        self.states.learn(unknown, *self._of_all(real_length, unknown, UNREADABLE))
        return self.states.lengths.clamp(min=0).tolist()

    def _of_all(
        self, ask: Callable[[LatentFile], Found], indices: NDArray[np.int64], otherwise: Found
    ) -> tuple[list[Found], dict[int, AudioError | UnreadableError]]:
        """What each of some items says, ``otherwise`` of those that cannot be read; and why these cannot."""
        errors: dict[int, AudioError | UnreadableError] = {}

        def answer(index: int) -> Found:
            try:
                return ask(self.files[index])
            except (AudioError, UnreadableError) as error:
                errors[index] = error
                return otherwise

        with ThreadPoolExecutor(NUM_READERS) as readers:
            return list(readers.map(answer, indices.tolist())), dict(sorted(errors.items()))

    def __len__(self) -> int:
        return len(self.files)

    def attempt(self, index: int, rng: Any, length: int | None) -> tuple[Tensor, dict[str, Any]] | Unusable:
        file = self.files[index]
        try:
            latents, metadata = read_latents(file), file.metadata()
            metadata["padding_mask"] = mask_of(latents, metadata, str(file.path))
        except (AudioError, UnreadableError) as error:
            self.states.condemn(index, error)
            return Unusable(str(error))
        self.states.learn_length(index, latents.shape[-1])
        self.states.meet(index)
        metadata["latent_filename"] = str(file.path)
        item = self._described(file, latents, metadata, rng, length)
        if isinstance(item, Unusable):
            self.states.rejected[index] = True
        return item

    def _described(
        self, file: LatentFile, latents: Tensor, metadata: dict[str, Any], rng: Any, length: int | None
    ) -> tuple[Tensor, dict[str, Any]] | Unusable:
        options, (low, high) = self.options, self.options.bounds
        if options.has_bounds and not low <= metadata.get("seconds_total", math.nan) <= high:
            return Unusable(f"{file.path}: rejected for its length")
        wanted = length or options.latent_crop_length
        latents = crop_latents(latents, metadata, file.store, wanted, rng if options.random_crop else None)  # (D, wanted)
        if metadata.get("stored", file.store.card.get("store")) == "mean-scale":
            mean, scale = latents.chunk(2)
            noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(rng.getrandbits(63))) if options.sample else 0
            latents = mean + vae_deviation(scale) * noise
        item = _with_module(file, latents, metadata)
        if not isinstance(item, Unusable):
            for name in options.cached_conditions:
                _use_cached(item[1], name, file)
        return item


def _with_module(file: LatentFile, latents: Tensor, metadata: dict[str, Any]) -> tuple[Tensor, dict[str, Any]] | Unusable:
    """The item with what its metadata module says, which may be that there is none."""
    said: Mapping[str, Any] = (file.custom_metadata(metadata, latents) if file.custom_metadata is not None else None) or {}
    metadata = {**metadata, **said}
    if metadata.pop("__reject__", False):
        return Unusable(f"{file.path}: rejected by the metadata module")
    given = metadata.pop("__replace__", None)
    if given is not None and (not isinstance(given, Tensor) or given.dim() != 2):
        shape = tuple(given.shape) if isinstance(given, Tensor) else type(given).__name__
        raise DataError(f"{file.path}: __replace__ is a tensor of latents (channels, frames), got {shape}")
    latents = latents if given is None else given
    return latents, {**metadata, "audio": latents}


def _use_cached(metadata: dict[str, Any], name: str, file: LatentFile) -> None:
    text = metadata.get(name)
    if not isinstance(text, str):
        raise DataError(f"{file.path}: cached_conditions: {name!r} is no text: {text!r:.60}")
    metadata[f"{name}_text"] = text
    metadata[name] = file.store.condition(name, text)


def _refuse_mixtures(files: LatentFiles, sample_rate: int | None) -> None:
    """Refuse stores whose items cannot share a batch, before training begins. Those of which no item is used have no say."""
    used = [(number, store) for number, store in enumerate(files.stores) if len(files.of_store(number))]
    for _, store in used:
        rate = store.card.get("sample_rate")
        if sample_rate is not None and rate is not None and rate != sample_rate:
            raise DataError(f"{store.place}: was encoded at {rate} Hz, but the model works at {sample_rate} Hz")
    if len(used) < 2:
        return
    widths: dict[int, str] = {}  # -> the first store of this width
    models: dict[Any, str] = {}
    for number, store in used:
        width, model = _channels(files, number), store.card.get("model", {}).get("hash")
        if width is not None:
            widths.setdefault(width, store.place)
        if model:
            models.setdefault(model, store.place)
    if len(widths) > 1:
        texts = ", ".join(f"{place} {width}" for width, place in widths.items())
        raise DataError(f"the folders hold latents of different widths: {texts}; they were encoded by different models")
    if len(models) > 1:
        raise DataError(f"the folders were encoded by different models, by their card.json: {', '.join(models.values())}")


def _channels(files: LatentFiles, number: int) -> int | None:
    """Channels of a store's items, from its card or from the first that can be read; None if none can."""
    card = files.stores[number].card
    width, is_pair = card.get("latent_channels"), card.get("store") == "mean-scale"
    for index in files.of_store(number) if not isinstance(width, int) else ():
        with suppress(UnreadableError, AudioError):
            width = read_latents(files[index]).shape[0]
            is_pair = files[index].metadata().get("stored", card.get("store")) == "mean-scale"
            break
    return width // 2 if isinstance(width, int) and is_pair else width
