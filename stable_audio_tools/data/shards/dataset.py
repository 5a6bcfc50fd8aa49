"""Dataset types of shards: audio, or latents."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal

from torch import Tensor

from stable_audio_tools.audio import AUDIO_EXTENSIONS, CropPlan, load, plan_crop, use_audio
from stable_audio_tools.config.base import NonNegativeFloat, NonNegativeInt, Pair, PositiveInt, Probability
from stable_audio_tools.config.dataset import ShardEntry, resolve
from stable_audio_tools.data.audio_dir import SampleDataset
from stable_audio_tools.data.latent_dataset import LatentDataset, LatentOptions
from stable_audio_tools.data.metadata import MetadataModule
from stable_audio_tools.data.shards.files import ShardFiles, ShardSource
from stable_audio_tools.data.shards.latents import ShardLatents
from stable_audio_tools.data.shards.order import ShardSampler
from stable_audio_tools.data.shards.reader import CACHE_BYTES
from stable_audio_tools.data.shards.silence import remove_long_silence
from stable_audio_tools.data.shards.storage import Storage
from stable_audio_tools.errors import ConfigError, DataError
from stable_audio_tools.families import DATASETS

logger = logging.getLogger(__name__)


class ShardDataset:
    """What shards of audio and of latents have in common: the order in which they are read, and what is said of them in the end."""

    files: ShardFiles
    states: Any
    bucket_lengths: list[int] | None = None
    epoch_steps: int | None = None
    shuffle_window: int = 0

    def read_in_order(self, *, epoch_steps: int | None, shuffle_buffer: int) -> None:
        """Say how the shards are read: see `ShardSampler`."""
        self.epoch_steps = epoch_steps
        # What is read ahead from afar must fit in what is kept of it: a window, or two where samples move again to join a bucket.
        mean = self.files.mean_bytes_from_afar() * (1 if self.bucket_lengths is None else 2)
        self.shuffle_window = min(shuffle_buffer, int(CACHE_BYTES / 2 / mean)) if mean else shuffle_buffer
        self.shard_starts = self.files.starts
        self.shard_weights = self.files.shard_weights()

    def sampler(self, **options: Any) -> ShardSampler:
        """The sampler of its loader."""
        return ShardSampler(self, **options)  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(self.files)

    @property
    def num_unreadable(self) -> int:
        """How many samples could not be read so far, and shards not to their end."""
        return self.states.num_unreadable + len(self.files.lost)

    @property
    def num_skipped(self) -> int:
        """How many samples or shards were not used, or not as they are, so far."""
        return self.states.num_skipped + len(self.files.lost)

    def summary(self) -> str:
        """What was not used so far, and why."""
        return "; ".join([self.states.summary(), *self.files.lost])


class AudioShards(ShardDataset, SampleDataset):
    """Crops of the audio in shards; an item is what it is for a folder, with ``__key__`` and ``__url__``.

    Args:
        files: The samples.
        silence: How long silences are shortened, as arguments of `remove_long_silence`; None leaves them.
        sample_size: Length of the crops, in samples.
        length_buckets: Samples; batches have one of these lengths each.
        **options: As for `SampleDataset`.

    Raises:
        DataError: If batches are to be made by length, and lengths are not known.
    """

    def __init__(
        self,
        files: ShardFiles,
        silence: Mapping[str, float] | None,
        sample_size: int,
        *,
        length_buckets: Sequence[int] = (),
        **options: Any,
    ) -> None:
        if length_buckets:
            if silence is not None:
                raise DataError("length_buckets and remove_silence do not go together: it changes the lengths that batches are made by")
            files.read_lengths(need_all=True)
        SampleDataset.__init__(self, [], sample_size, files=files, length_buckets=length_buckets, **options)
        self.silence = silence

    def _decode(self, index: int, source: Path | BinaryIO, rng: Any, size: int, start: int | None) -> tuple[CropPlan, Tensor] | None:
        if self.silence is None:
            return super()._decode(index, source, rng, size, start)
        use_audio(source, lambda audio: self._num_samples(index, source, audio))
        whole = remove_long_silence(load(source, sample_rate=self.sample_rate).samples, self.sample_rate, **self.silence, rng=rng)
        if not whole.shape[-1]:
            return None
        plan = plan_crop(whole.shape[-1], size, self.sample_rate, randomize=self.random_crop, rng=rng)
        return plan, whole[:, plan.start :]


class LatentShards(ShardDataset, LatentDataset):
    """Latents in shards; an item is what it is for a folder, with ``__key__`` and ``__url__``.

    Args:
        files: The samples.
        options: What is done to each.
        sample_rate: Of the model, in Hz.

    Raises:
        DataError: As for `LatentDataset`.
    """

    files: ShardLatents

    def __init__(self, files: ShardLatents, options: LatentOptions, sample_rate: int) -> None:
        LatentDataset.__init__(self, files, options, sample_rate)


@DATASETS.register("wds")
@DATASETS.register("s3")
def shards(
    datasets: list[ShardEntry],
    sample_size: int,
    sample_rate: PositiveInt,
    audio_channels: PositiveInt,
    base_dir: Path | None,
    random_crop: bool = True,
    drop_last: bool = True,
    augment_phase: bool = True,
    resampled_shards: bool = True,
    epoch_steps: PositiveInt = 2000,
    shuffle_buffer: NonNegativeInt = 1000,
    remove_silence: bool = False,
    silence_threshold: Pair = (0.01, 0.5),
    max_silence_duration: NonNegativeFloat = 0.25,
    silence_threshold_db: float | None = -60.0,
    volume_norm: bool = False,
    volume_norm_param: Pair = (-16, 2),
    pre_encoded: bool = False,
    latent_crop_length: PositiveInt | None = None,
    min_length_sec: NonNegativeFloat | None = None,
    max_length_sec: NonNegativeFloat | None = None,
    sample: bool = True,
    cached_conditions: list[str] | None = None,
    length_buckets: list[PositiveInt] | None = None,
    broken_shards: Literal["error", "keep"] = "error",
    max_unreadable_share: Probability = 0.1,
) -> AudioShards | LatentShards:
    """WebDataset shards of audio or latents, in folders or behind URLs (s3://, gs://, https:// ...).

    Args:
        datasets: Where the shards are.
        sample_size: Length of the crops, in samples.
        sample_rate: Rate of the result, in Hz.
        audio_channels: 1 makes everything mono, 2 stereo.
        base_dir: Folder of the config file, for relative paths.
        random_crop: Crop at a random place, rather than from the start.
        drop_last: Leave out the last batch of a pass if it is not full. Read by the loader.
        augment_phase: Flip the polarity of half of the items.
        resampled_shards: Draw shards at random, with repetition, ``epoch_steps`` batches per pass; otherwise a pass has each sample once.
        epoch_steps: Batches per pass and process, where shards are drawn.
        shuffle_buffer: How many samples that follow each other in shards are mixed; less where so many would not fit in memory.
        remove_silence: Shorten long silences. Costs a decode of the whole file for each crop.
        silence_threshold: Level below which samples are silent (full scale is 1.0), and seconds that stay of a long silence.
        max_silence_duration: Longest silence that is left alone, in seconds.
        silence_threshold_db: Crops whose peak is below this are replaced, in dB of full scale; null keeps all.
        volume_norm: Bring each file to a loudness (ITU-R BS.1770), as far as its peaks allow.
        volume_norm_param: That loudness in LUFS, and by how many LU it varies at random, up or down.
        pre_encoded: The shards hold latents (``.npy`` or ``.safetensors``) instead of audio.
        latent_crop_length: Frames per item of latents: longer ones are cropped, shorter ones padded. None is the length of a whole crop.
        min_length_sec: Leave out clips of latents that are shorter, by their ``seconds_total``.
        max_length_sec: Leave out clips of latents that are longer.
        sample: Where mean and scale are stored, draw latents anew each time; otherwise take the mean.
        cached_conditions: Metadata keys of latents whose text is replaced by its cached embedding.
        length_buckets: Lengths in samples, or in frames of latents; each batch has one of them, so that short items are not padded to the
            longest. Sorted within ``shuffle_buffer`` samples.
        broken_shards: What to do with shards that are cut off or damaged: stop with an error, or keep the whole samples in them.
        max_unreadable_share: If more of the samples that were met cannot be read, training stops; 1 goes on with what is left.
    """
    sources = [shard_source(entry, base_dir) for entry in datasets]
    weights = {source.weight for source in sources}
    if len(weights) > 1 and not resampled_shards:
        raise ConfigError('weights differ, which needs draws with repetition: write "resampled_shards": true, or leave the weights out')
    keep_broken = broken_shards == "keep"
    level, kept = silence_threshold
    dataset: AudioShards | LatentShards
    if pre_encoded:
        _say_what_is_unused(
            {"remove_silence": remove_silence, "silence_threshold": silence_threshold, "max_silence_duration": max_silence_duration,
             "silence_threshold_db": silence_threshold_db, "volume_norm": volume_norm, "volume_norm_param": volume_norm_param},
            "latents, which are what was encoded",
        )  # fmt: skip
        options = LatentOptions(
            latent_crop_length, random_crop, length_buckets or (), sample, cached_conditions or (), min_length_sec, max_length_sec,
            max_unreadable_share,
        )  # fmt: skip
        dataset = LatentShards(ShardLatents(sources, keep_broken=keep_broken), options, sample_rate)
    else:
        _say_what_is_unused(
            {"latent_crop_length": latent_crop_length, "cached_conditions": cached_conditions, "min_length_sec": min_length_sec,
             "max_length_sec": max_length_sec, "sample": sample},
            'audio; is "pre_encoded": true missing?',
        )  # fmt: skip
        dataset = AudioShards(
            ShardFiles(sources, AUDIO_EXTENSIONS, keep_broken=keep_broken),
            {"level": level, "kept_seconds": kept, "max_seconds": max_silence_duration} if remove_silence else None,
            sample_size,
            sample_rate=sample_rate,
            random_crop=random_crop,
            force_channels=audio_channels,
            augment_phase=augment_phase,
            volume_norm=volume_norm,
            volume_norm_param=volume_norm_param,
            silence_threshold_db=silence_threshold_db,
            max_unreadable_share=max_unreadable_share,
            length_buckets=length_buckets or (),
        )
    dataset.read_in_order(epoch_steps=epoch_steps if resampled_shards else None, shuffle_buffer=shuffle_buffer)
    return dataset


def _say_what_is_unused(given: Mapping[str, Any], where: str) -> None:
    """Warn of keys that were written and say something, but nothing to these shards."""
    parameters = inspect.signature(shards).parameters
    for key, value in given.items():
        if value is not None and (tuple(value) if isinstance(value, list) else value) != parameters[key].default:
            logger.warning("%s has no effect on shards of %s", key, where)


def shard_source(entry: ShardEntry, base_dir: Path | None) -> ShardSource:
    """Where the shards of an entry are."""
    url = entry.s3_path or entry.path or ""
    if entry.s3_path and "://" not in url:
        url = f"s3://{url}"
    if "://" not in url:
        url = (resolve(url, base_dir) if "{" not in url else Path(url)).as_posix()  # what follows knows forward slashes only
    options = dict(entry.storage_options)
    for key in ("profile", "endpoint_url"):
        if getattr(entry, key) is not None:
            options[key] = getattr(entry, key)
    module = MetadataModule(resolve(entry.custom_metadata_module, base_dir)) if entry.custom_metadata_module else None
    if module is not None:
        module.load()  # only to find its mistakes now: each worker runs it anew, since open files cannot be shared
    return ShardSource(url, Storage(url, options), module, entry.caption, entry.weight)
