"""Folders of pre-encoded items: latents or tokens, and metadata, so that training never sees audio."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import accumulate, compress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stable_audio_tools.config.base import ListFile, PositiveFloat, PositiveInt, Probability
from stable_audio_tools.config.dataset import LatentFolder, resolve
from stable_audio_tools.data.file_table import LocalDatasetConfig
from stable_audio_tools.data.files import path_lists
from stable_audio_tools.data.latent_dataset import LatentDataset, LatentOptions
from stable_audio_tools.data.latent_file import metadata_beside
from stable_audio_tools.data.latent_lists import choose_latents
from stable_audio_tools.data.latent_store import LatentStore
from stable_audio_tools.data.lengths import SaidLengths
from stable_audio_tools.data.metadata import CustomMetadata, MetadataModule
from stable_audio_tools.errors import DataError
from stable_audio_tools.families import DATASETS


class FolderLatent(NamedTuple):
    """A `LatentFile` of a folder."""

    path: Path
    store: LatentStore
    custom_metadata: CustomMetadata | None

    def opened(self) -> AbstractContextManager[Path]:
        """The file."""
        return nullcontext(self.path)

    def metadata(self) -> dict[str, Any]:
        """What the JSON file beside it says."""
        return metadata_beside(self.path)


class FolderLatents(SaidLengths):
    """The items of several folders.

    Args:
        stores: The folders.
        configs: What is said of each.
    """

    def __init__(self, stores: Sequence[LatentStore], configs: Sequence[LocalDatasetConfig]) -> None:
        super().__init__()
        self.stores = list(stores)
        self._configs = list(configs)
        self._paths = [path for store in stores for path in store.paths]
        self._owners = np.repeat(np.arange(len(stores)), [len(store.paths) for store in stores])

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int, /) -> FolderLatent:
        owner = int(self._owners[index])
        return FolderLatent(self._paths[index], self.stores[owner], self._configs[owner].custom_metadata_fn)

    def of_store(self, number: int) -> range:
        """The items of a folder."""
        starts = [0, *accumulate(np.bincount(self._owners, minlength=len(self.stores)).tolist())]
        return range(starts[number], starts[number + 1])

    def near(self) -> NDArray[np.bool_]:
        """All."""
        return np.ones(len(self), dtype=np.bool_)

    def read_lengths(self, *, need_all: bool) -> None:
        """Read the journals; what they do not say can be found out, so it is never an error."""
        said = [store.said() for store in self.stores]
        self.learn(said[owner].get(path.stem, {}) for path, owner in zip(self._paths, self._owners.tolist(), strict=True))

    def keep(self, kept: NDArray[np.bool_]) -> None:
        """Forget all items but those that are kept."""
        self._paths, self._owners = list(compress(self._paths, kept)), self._owners[kept]
        self.forget(kept)

    def weights(self) -> NDArray[np.float64] | None:
        """How often each is drawn, relative to others; None if all folders have the same weight."""
        weights = np.array([config.weight for config in self._configs])
        return weights[self._owners] if len(set(weights)) > 1 else None


class PreEncodedDataset(LatentDataset):
    """Latents in folders, see `LatentDataset`.

    Args:
        configs: Folders.
        latent_crop_length: Frames per item; None is the length of a whole crop.
        min_length_sec: Leave out clips that are shorter, by their ``seconds_total``.
        max_length_sec: Leave out clips that are longer.
        random_crop: Crop at a random place, rather than from the start.
        latent_extension: ``npy`` or ``safetensors``; None is what each folder says.
        options: All of these but the last, and more, instead of them.
        stores: The folders, one of each config, if they were opened before; ``latent_extension`` has a say only if not.
        sample_rate: Of the model, in Hz, to be compared with that of the folders.

    Raises:
        DataError: If a folder holds no latents, or they do not go together; or if something is said twice.
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
        given: dict[str, Any] = {
            "latent_crop_length": latent_crop_length, "random_crop": random_crop, "min_length_sec": min_length_sec,
            "max_length_sec": max_length_sec,
        }  # fmt: skip
        twice = [name for name, value in given.items() if options is not None and value not in (None, False)]
        twice += ["latent_extension"] if stores is not None and latent_extension is not None else []
        if twice:
            where = "stores, which are open" if twice == ["latent_extension"] else "options, which have it too"
            raise DataError(f"{', '.join(twice)}: given beside {where}; write it there only")
        opened = stores if stores is not None else [LatentStore(Path(config.path), latent_extension) for config in configs]
        if not opened:
            raise DataError("datasets: the list is empty; give at least one folder of pre-encoded items")
        if len(opened) != len(configs):
            raise DataError(f"stores: {len(opened)} for {len(configs)} configs; give one of each")
        options = options or LatentOptions(**given)
        super().__init__(FolderLatents(opened, configs), options, sample_rate)


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
    max_unreadable_share: Probability = 0.25,
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
        max_unreadable_share: If more of the files that were met cannot be read, training stops; 1 goes on with what is left.
        exclude_paths_file: A list of items to leave out, one path or name per line: of the latents, or of their audio.
        include_paths_file: A list of the only items to use.
    """
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
    options = LatentOptions(
        latent_crop_length, random_crop, length_buckets or (), sample, cached_conditions or (), min_length_sec, max_length_sec,
        max_unreadable_share,
    )  # fmt: skip
    return PreEncodedDataset(configs, options=options, stores=stores, sample_rate=sample_rate)
