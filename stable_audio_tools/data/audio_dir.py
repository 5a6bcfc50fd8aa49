"""Folders of audio files."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from numbers import Integral
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from stable_audio_tools.audio import (
    SILENCE_DB,
    CropPlan,
    OpenAudio,
    apply_crop,
    force_channels,
    measure,
    normalizing_gain,
    pad_crop,
    plan_crop,
    plan_crop_at,
    use_audio,
)
from stable_audio_tools.config.base import ListFile, NonNegativeFloat, Pair, PositiveInt, Probability
from stable_audio_tools.config.dataset import AudioFolder, resolve
from stable_audio_tools.data.buckets import BucketedDataset
from stable_audio_tools.data.decoded import DecodedFiles
from stable_audio_tools.data.file_states import FileStates
from stable_audio_tools.data.file_table import LocalDatasetConfig, UsableFile, UsableFiles, list_files
from stable_audio_tools.data.files import NUM_READERS, PathList, path_lists
from stable_audio_tools.data.metadata import Captions, MetadataModule
from stable_audio_tools.data.replacing import Unusable
from stable_audio_tools.errors import AudioError, DataError
from stable_audio_tools.families import DATASETS

_SAFE_PEAK = 0.9999  # of a crop that need not be looked through for samples beyond full scale
_CROPS_KEPT = 4  # length of a file that may be kept in memory
TAIL_SECONDS = 0.1  # silence at the end that is shorter than this is left


class SampleDataset(BucketedDataset):
    """Crops of audio files; only the crop is decoded.

    Files that cannot be decoded, and crops that are silent or rejected, are replaced by another item, remembered, and counted
    (`summary`). If nothing usable is found, or too many files cannot be decoded, that is an error.

    Args:
        configs: Folders.
        sample_size: Length of the crops, in samples.
        sample_rate: Rate of the result, in Hz.
        random_crop: Crop at a random place, rather than from the start.
        force_channels: ``"mono"``, ``"stereo"``, or a number of channels.
        augment_phase: Flip the polarity of half of the items.
        volume_norm: Bring each file to a loudness.
        volume_norm_param: That loudness in LUFS, and by how many LU it varies at random, up or down.
        strip_silence: Leave out the silent end of files, if it is 0.1 s or longer.
        silence_threshold_db: Crops whose peak is below this are replaced; None keeps all.
        max_unreadable_share: From 0 to 1; if more of the files that were met cannot be decoded, that is an error.
        exclude_paths: Files to leave out.
        include_paths: The only files to use.
        length_buckets: Samples; batches have one of these lengths each, so that short files are not padded to ``sample_size``.
        cache_mb: Memory, in each worker, for files of up to four crops that were decoded before.
        files: The files, if they were found before; ``configs`` and lists of paths have no say then.

    Raises:
        DataError: If there is no file to use, or a number is out of range.
    """

    def __init__(
        self,
        configs: Sequence[LocalDatasetConfig],
        sample_size: int = 65536,
        sample_rate: int = 48000,
        random_crop: bool = True,
        force_channels: str | int = "stereo",
        augment_phase: bool = True,
        *,
        volume_norm: bool = False,
        volume_norm_param: Sequence[float] = (-16, 2),
        strip_silence: bool = False,
        silence_threshold_db: float | None = SILENCE_DB,
        max_unreadable_share: float = 0.25,
        exclude_paths: PathList | None = None,
        include_paths: PathList | None = None,
        length_buckets: Sequence[int] = (),
        cache_mb: float = 0,
        files: UsableFiles | None = None,
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
        self.volume_norm = volume_norm
        self.volume_norm_param = (float(volume_norm_param[0]), float(volume_norm_param[1]))
        self.strip_silence = strip_silence
        self.silence_threshold = 0.0 if silence_threshold_db is None else 10 ** (silence_threshold_db / 20)
        self.files: UsableFiles = files if files is not None else list_files(configs, exclude=exclude_paths, include=include_paths)
        self.states = FileStates(self.files, max_unreadable_share)
        self.decoded = DecodedFiles(int(cache_mb * 1e6))
        weights = self.files.weights()
        self.sample_weights = None if weights is None else torch.from_numpy(weights)
        if length_buckets:
            if max(length_buckets) > sample_size:
                raise DataError(f"length_buckets: {max(length_buckets)} samples are more than sample_size, which is {sample_size}")
            self.set_buckets(length_buckets, self.totals())

    @property
    def lengths(self) -> Tensor:
        """Samples per channel of each file at its own rate; negative where it is not known, or the file cannot be decoded."""
        return self.states.lengths

    def __len__(self) -> int:
        return len(self.files)

    holds = "audio"

    def attempt(self, index: int, rng: Any, length: int | None) -> tuple[Tensor, dict[str, Any]] | Unusable:
        return self._item(index, rng, length or self.sample_size)

    def _item(self, index: int, rng: Any, size: int, start: int | None = None) -> tuple[Tensor, dict[str, Any]] | Unusable:
        file, states = self.files[index], self.states
        started = time.perf_counter()
        try:
            described = file.described()
            decoded = self._span(index, file, rng, size, start)
        except AudioError as error:
            states.condemn(index, error)
            return Unusable(str(error))
        states.meet(index)
        if decoded is None:
            states.silent[index] = True
            return Unusable(f"{file.path}: is silent")
        plan, span = decoded
        gain = self._gain(index, rng)
        peak = _peak(span) * gain
        if self.augment_phase and rng.random() < 0.5:
            gain = -gain
        crop = apply_crop(span * gain if gain != 1 else span, plan)
        audio = force_channels(crop.audio if peak < _SAFE_PEAK else crop.audio.clamp(-1, 1), self.num_channels)  # (C, T)
        heard = peak if len(span) <= self.num_channels else _peak(audio)  # what is left of six channels may be silent, or two may cancel
        if heard < self.silence_threshold:
            states.silent[index] = True
            return Unusable(f"{file.path}: silent from {plan.seconds_start} s", is_of_crop=self.random_crop and span.shape[-1] == size)
        metadata: dict[str, Any] = {
            "path": str(file.path),
            "relpath": file.relpath,
            "timestamps": (crop.t_start, crop.t_end),
            "seconds_start": crop.seconds_start,
            "seconds_total": crop.seconds_total,
            "padding_mask": crop.padding_mask,
            "sample_rate": self.sample_rate,
            "load_time": time.perf_counter() - started,
            **described,
        }
        return self._with_metadata(index, file, audio, metadata, plan, gain)

    def _span(self, index: int, file: UsableFile, rng: Any, size: int, start: int | None) -> tuple[CropPlan, Tensor] | None:
        """Which crop of a file an item is, and what there is of it (C, t), t <= ``size``; None if nothing can be heard."""
        held = self.decoded.get(index)
        if held is None:
            with file.opened() as source:
                return self._decode(index, source, rng, size, start)
        total = self._known_samples(index)
        plan = self._plan(total, rng, size, start)
        return plan, held[:, plan.start : min(plan.start + size, total)].clone()  # (C, t)

    def _decode(self, index: int, source: Path | BinaryIO, rng: Any, size: int, start: int | None) -> tuple[CropPlan, Tensor] | None:
        """`_span` of a file that must be decoded."""
        plan: CropPlan | None = None  # chosen once, also if a second decoder must be tried

        def use(audio: OpenAudio) -> tuple[CropPlan, Tensor] | None:
            nonlocal plan
            total = self._num_samples(index, source, audio)
            if not total:
                return None
            plan = plan or self._plan(total, rng, size, start)
            count = min(size, total - plan.start)
            if self.decoded.max_bytes and total <= _CROPS_KEPT * self.sample_size:
                # Whole, also if it turns out that there is no room: what an item is must not depend on what is in memory.
                whole = audio.load(sample_rate=self.sample_rate).samples  # (C, T)
                self.decoded.keep(index, whole)
                return plan, whole[:, plan.start : plan.start + count].clone()  # (C, t)
            return plan, audio.load(start=plan.start, num_frames=count, sample_rate=self.sample_rate).samples

        return use_audio(source, use)

    def _with_metadata(
        self, index: int, file: UsableFile, audio: Tensor, metadata: dict[str, Any], plan: CropPlan, gain: float
    ) -> tuple[Tensor, dict[str, Any]] | Unusable:
        """The item with what its metadata module says, which may be that there is none."""
        if file.custom_metadata is not None:
            metadata |= file.custom_metadata(metadata, audio) or {}
        if metadata.pop("__reject__", False):
            self.states.rejected[index] = True
            return Unusable(f"{file.path}: rejected by the metadata module")
        replacement = metadata.pop("__replace__", None)
        if replacement is not None:
            cropped = pad_crop(_checked(file, "__replace__", replacement), plan.num_samples)
            audio = force_channels(cropped.audio, self.num_channels).clamp(-1, 1)  # (C, T)
            if replacement.shape[-1] != plan.num_samples:
                metadata["padding_mask"] = cropped.padding_mask
        for name, extra in _further_audio(file, metadata.pop("__audio__", {})).items():
            start = min(plan.start, extra.shape[-1])
            cropped = pad_crop(extra, plan.num_samples, start=start).audio * gain
            metadata[name] = force_channels(cropped.clamp(-1, 1), self.num_channels)
        return audio, metadata

    def _plan(self, total: int, rng: Any, size: int, start: int | None) -> CropPlan:
        """Which part of a file of ``total`` samples an item is."""
        if start is not None:
            return plan_crop_at(min(start, total), total, size, self.sample_rate)
        return plan_crop(total, size, self.sample_rate, randomize=self.random_crop, rng=rng)

    def _num_samples(self, index: int, source: Path | BinaryIO, audio: OpenAudio) -> int:
        """Length of a file at our rate, without its silent end if that is to be stripped. Measures what is not known yet."""
        states = self.states
        if int(states.lengths[index]) < 0:
            info = audio.probe()
            states.learn_length(index, info.num_frames, info.sample_rate)
        if (self.strip_silence or self.volume_norm) and int(states.audible[index]) < 0:
            states.note(index, measure(source))
        return self._known_samples(index)

    def _known_samples(self, index: int) -> int:
        states = self.states
        length, rate = int(states.lengths[index]), int(states.rates[index])
        if self.strip_silence and length - int(states.audible[index]) >= TAIL_SECONDS * rate:
            length = int(states.audible[index])
        return -(-length * self.sample_rate // rate)  # rounded up

    def totals(self) -> list[int]:
        """Samples of every file at our rate; 0 of one that cannot be read, which is told when it is asked for.

        Of files that nothing is known of, the headers are read.
        """
        with ThreadPoolExecutor(NUM_READERS) as readers:
            return list(readers.map(self._total, range(len(self.files))))

    def _total(self, index: int) -> int:
        if self.states.is_unreadable(index):  # a manifest may know more than headers tell
            return 0
        is_measured = int(self.states.audible[index]) >= 0 or not self.strip_silence
        if int(self.states.lengths[index]) >= 0 and is_measured:
            return self._known_samples(index)
        try:
            with self.files[index].opened() as source:
                return use_audio(source, lambda audio: self._num_samples(index, source, audio))
        except AudioError:
            return 0

    def _gain(self, index: int, rng: Any) -> float:
        """What brings a file to its loudness."""
        if not self.volume_norm:
            return 1.0
        target, spread = self.volume_norm_param
        wanted = target + rng.uniform(-spread, spread)
        return normalizing_gain(float(self.states.loudness[index]), float(self.states.peaks[index]), target_lufs=wanted)


def _peak(audio: Tensor) -> float:
    """Largest magnitude."""
    low, high = audio.aminmax()
    return max(-float(low), float(high))


def _further_audio(file: UsableFile, given: Any) -> Mapping[str, Tensor]:
    """What a metadata module returned as ``__audio__``, checked."""
    if not isinstance(given, Mapping):
        raise DataError(f"{file.path}: __audio__ is a dictionary of audio (C, T) by name, got {type(given).__name__}")
    for name, extra in given.items():
        _checked(file, f"__audio__[{name!r}]", extra)
    return given


def _checked(file: UsableFile, name: str, given: Any) -> Tensor:
    """Audio that a metadata module returned."""
    if not isinstance(given, Tensor) or given.dim() != 2 or not given.is_floating_point():
        shape = f"{given.dtype} {tuple(given.shape)}" if isinstance(given, Tensor) else type(given).__name__
        raise DataError(f"{file.path}: {name} is a float tensor (C, T), got {shape}")
    return given


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
    volume_norm: bool = False,
    volume_norm_param: Pair = (-16, 2),
    strip_silence: bool = False,
    silence_threshold_db: float | None = -60.0,
    max_unreadable_share: Probability = 0.25,
    exclude_paths_file: ListFile | None = None,
    include_paths_file: ListFile | None = None,
    length_buckets: list[PositiveInt] | None = None,
    cache_mb: NonNegativeFloat = 0.0,
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
        volume_norm: Bring each file to a loudness (ITU-R BS.1770), as far as its peaks allow.
        volume_norm_param: That loudness in LUFS, and by how many LU it varies at random, up or down.
        strip_silence: Leave out the silent end of files, if it is 0.1 s or longer.
        silence_threshold_db: Crops whose peak is below this are replaced, in dB of full scale; null keeps all.
        max_unreadable_share: If more of the files that were met cannot be decoded, training stops; 1 goes on with what is left.
        exclude_paths_file: A list of files to leave out, one path or name per line.
        include_paths_file: A list of the only files to use.
        length_buckets: Samples; batches have one of these lengths each, so that short files are not padded to ``sample_size``.
        cache_mb: Memory in each worker, in MB, for decoded files of up to four crops, so that short sounds are decoded once and not in each
            pass; 0 keeps none.
    """
    configs = [local_config(folder, base_dir) for folder in datasets]
    exclude, include = path_lists(exclude_paths_file, include_paths_file, base_dir)
    return SampleDataset(
        configs,
        sample_size,
        sample_rate,
        random_crop,
        audio_channels,
        augment_phase,
        volume_norm=volume_norm,
        volume_norm_param=volume_norm_param,
        strip_silence=strip_silence,
        silence_threshold_db=silence_threshold_db,
        max_unreadable_share=max_unreadable_share,
        exclude_paths=exclude,
        include_paths=include,
        length_buckets=length_buckets or (),
        cache_mb=cache_mb,
    )


def local_config(folder: AudioFolder, base_dir: Path | None) -> LocalDatasetConfig:
    """A folder as a dataset takes it, from what a config says of it.

    Raises:
        ConfigError: If its metadata module cannot be used.
        DataError: If its table of captions cannot be read.
    """
    path = resolve(folder.path, base_dir)
    table = resolve(folder.captions_file, base_dir) if folder.captions_file else None
    module = MetadataModule(resolve(folder.custom_metadata_module, base_dir)) if folder.custom_metadata_module else None
    if module is not None:
        module.load()  # only to find its mistakes now: each worker runs it anew, since open files cannot be shared
    return LocalDatasetConfig(
        folder.id,
        str(path),
        module,
        Captions(path, table=table, caption=folder.caption),
        weight=folder.weight,
        keywords=folder.keywords,
        filelist_path=str(resolve(folder.filelist_path, base_dir)) if folder.filelist_path else None,
        manifest=str(resolve(folder.manifest, base_dir)) if folder.manifest else None,
    )
