"""pre_encode(): from a model and a dataset to a folder of latents."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stable_audio_tools.checkpoint import atomic_path, load_model_weights, weights_hash
from stable_audio_tools.config.check import refuse_dataset_mistakes
from stable_audio_tools.config.source import Source, read_source
from stable_audio_tools.data.base import ItemDataset
from stable_audio_tools.data.dataset import create_dataset_from_config
from stable_audio_tools.data.progress import Progress
from stable_audio_tools.data.store_facts import CONDITIONS, DETAILS, SILENCE
from stable_audio_tools.errors import ConfigError, DataError
from stable_audio_tools.families import DATASETS
from stable_audio_tools.inference.device import pick_device
from stable_audio_tools.models.factory import create_model_from_config
from stable_audio_tools.models.pretrained import get_pretrained_model
from stable_audio_tools.preencode.card import begin_card, digest_of, finish_card, write_object
from stable_audio_tools.preencode.conditions import ConditionCache
from stable_audio_tools.preencode.encoder import Clip, LatentEncoder, Stored, noise_seed
from stable_audio_tools.preencode.machines import Place
from stable_audio_tools.preencode.metadata import plain_metadata
from stable_audio_tools.preencode.options import DTYPES, PreEncodeOptions, refuse_impossible
from stable_audio_tools.preencode.store import Done, Format, ItemId, StoreWriter, storable, write_latents
from stable_audio_tools.preencode.work import Loaded, Work, batches
from stable_audio_tools.registry.schema import without_comments

logger = logging.getLogger(__name__)
DEFAULT_SAMPLE_SIZE = 1320960  # of scripts for autoencoders: 645 frames of Stable Audio's


@dataclass(frozen=True)
class ItemsProgress(Progress):
    """How far one process has got with its items.

    Attributes:
        audio_seconds: Length of those that it has done since it began.
    """

    audio_seconds: float

    def __str__(self) -> str:
        rate = self.audio_seconds / max(self.seconds, 1e-9)
        return f"{self.num_done}/{self.num_files} items, {rate:.0f} x real time, {self.time_left} left"


@dataclass(frozen=True)
class PreEncodeResult:
    """What a run left behind.

    Attributes:
        folder: The store.
        written: Items that this process wrote.
        skipped: Items that could not be used, of all processes so far.
        is_complete: Whether all processes are done.
        summary: In words.
    """

    folder: Path
    written: int
    skipped: int
    is_complete: bool
    summary: str


def pre_encode(
    options: PreEncodeOptions, place: Place | None = None, on_progress: Callable[[ItemsProgress], None] | None = None
) -> PreEncodeResult:
    """Encode a dataset. Run it again after a crash, and it goes on: what is written stays as it is.

    Args:
        options: What, with what, and where to.
        place: Of this process among all.
        on_progress: Called after every batch.

    Raises:
        ConfigError: If the configs or options are wrong.
        CheckpointError: If the weights do not fit.
        DataError: If there is no usable audio, or the folder was begun with something else.
    """
    refuse_impossible(options)
    place = place or Place()
    source = _deterministic(read_source(options.dataset_config, name="dataset config"))
    refuse_dataset_mistakes(source, with_files=True)  # before a large model is loaded
    model, config, name = _load_model(options)
    device = _device(options.device, place)
    model = model.to(device).eval()
    sample_size = options.sample_size or (config.get("sample_size") if "pretransform" in config["model"] else None) or DEFAULT_SAMPLE_SIZE
    stored: Stored = "tokens" if options.is_discrete else options.store
    encoder = LatentEncoder(model, stored=stored, sample_size=sample_size, full_length=options.full_length)
    if options.model_half:
        encoder.module.half()
    sample_size = encoder.frames * encoder.ratio  # whole frames
    dataset = create_dataset_from_config(source, sample_size, config["sample_rate"], encoder.audio_channels)
    if not isinstance(dataset, ItemDataset):
        raise ConfigError(f"{source.name}: its items have no numbers to remember them by; give a config of files, such as audio_dir")
    folder = Path(options.output_path)
    folder.mkdir(parents=True, exist_ok=True)
    card = _card(options, encoder, config, name, source, dataset, sample_size)
    card = begin_card(folder, card, is_first=place.rank == 0)
    size: int = card["shard_size"]  # what is done is numbered by it
    limit = options.limit_batches and options.limit_batches * options.batch_size * place.world
    if limit is not None and options.format == "wds":
        limit = -(-limit // size) * size  # only whole shards
    work = Work(dataset, place, group_size=size, limit=limit, shuffle=options.shuffle, seed=options.seed)
    cache = ConditionCache(model, options.cache_conditions, folder, device)
    if place.rank == 0:
        _write_beside(folder, options, encoder, sample_size)
    writer = StoreWriter(folder, place.rank, options.format, Done(folder, options.format))
    try:
        written = _encode_all(work, encoder, writer, cache, options, config["sample_rate"], on_progress)
    finally:
        writer.close()
    return _result(folder, card, work, options.format, written)


def _deterministic(source: Source) -> Source:
    """The dataset config without random polarity, unless it asks for that: what is stored is stored once for all."""
    data: Any = without_comments(source.data)
    if not isinstance(data, dict) or not isinstance(data.get("dataset_type"), str) or data["dataset_type"] not in DATASETS:
        return source  # to be told when it is checked
    kind = data["dataset_type"]
    if DATASETS.part(kind).facts.get("latents") or data.get("pre_encoded") is True:
        raise ConfigError(f"{source.name}: dataset_type {kind!r} holds latents already; give a config of audio")
    if "augment_phase" not in data and any(parameter.name == "augment_phase" for parameter in DATASETS.schema(kind).parameters):
        data["augment_phase"] = False
    return Source(data, source.name, source.positions, source.folder)


def _load_model(options: PreEncodeOptions) -> tuple[nn.Module, Mapping[str, Any], str]:
    """The model with its weights, its config, and a name for people."""
    if options.pretrained_name is not None:
        return *get_pretrained_model(options.pretrained_name), options.pretrained_name
    assert options.model_config is not None
    assert options.ckpt_path is not None
    source = read_source(options.model_config, name="model config")
    model = create_model_from_config(source.data)
    load_model_weights(model, options.ckpt_path)
    return model, source.data, Path(options.ckpt_path).name


def _device(name: str, place: Place) -> torch.device:
    device = pick_device(name)
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", place.local_rank % torch.cuda.device_count())
        torch.cuda.set_device(device)
    return device


def _card(
    options: PreEncodeOptions, encoder: LatentEncoder, config: Mapping[str, Any], name: str, source: Source, dataset: Any, sample_size: int
) -> dict[str, Any]:
    files = getattr(dataset, "filenames", len(dataset))
    half = ", encoded in fp16" if options.model_half else ""
    return {
        "model": {"name": name, "hash": weights_hash(encoder.module.state_dict()), "config": digest_of(config["model"])},
        "dataset": {"name": source.name, "hash": digest_of([source.data, files]), "items": len(dataset)},
        "store": encoder.stored,
        "dtype": ("int32" if options.is_discrete else options.dtype) + half,
        "format": options.format,
        "pad": options.pad,
        "full_length": options.full_length,
        "seed": options.seed,
        "shuffle": options.shuffle,
        "cache_conditions": sorted(options.cache_conditions),
        "sample_size": sample_size,
        "sample_rate": config["sample_rate"],
        "downsampling_ratio": encoder.ratio,
        "latent_length": encoder.frames,
        "latent_channels": int(encoder.silent_latents().shape[0]),
        "shard_size": options.shard_size,
        "model_config": config,
        "dataset_config": source.data,
    }


def _write_beside(folder: Path, options: PreEncodeOptions, encoder: LatentEncoder, sample_size: int) -> None:
    """What other programs look for: ``details.json``, and what silence is encoded to."""
    for half in folder.glob(".*.tmp"):  # of a process that was killed
        half.unlink()
    named = {key: value if isinstance(value, (str, Path)) else None for key, value in vars(options).items() if key.endswith("_config")}
    args = {key: value for key, value in asdict(options).items() if not isinstance(value, Mapping)}
    write_object(folder / DETAILS, {**named, "sample_size": sample_size, "args": args, "variable_length": not options.pad})
    kind: Format = "npy" if options.format == "wds" else options.format
    if (folder / f"{SILENCE}.{kind}").is_file():
        return
    with atomic_path(folder / f"{SILENCE}.{kind}") as path:
        write_latents(path, storable(encoder.silent_latents(), DTYPES[options.dtype])[None], kind)  # (1, D, L)


def _encode_all(
    work: Work, encoder: LatentEncoder, writer: StoreWriter, cache: ConditionCache, options: PreEncodeOptions, rate: int,
    on_progress: Callable[[ItemsProgress], None] | None,
) -> int:  # fmt: skip
    """Encode all groups of this process that are not done; returns how many items were written."""
    done = writer.done
    todo: list[tuple[ItemId, int]] = []
    total = finished = 0
    for items in map(work.items, work.groups):
        for item, _ in items:
            writer.adopt(item)
        there = sum(item in done for item, _ in items)
        total, finished = total + len(items), finished + there
        if there < len(items):
            todo += items  # all of them: batches, and so the last bits of the result, are those of an uninterrupted run
    started, new, samples, written = time.monotonic(), 0, 0, 0
    for batch in batches(work, todo, encoder, batch_size=options.batch_size, num_workers=options.num_workers):
        missing = [loaded for loaded in batch.items if loaded.item not in done]
        if missing and missing[0].audio is None:
            writer.skip(missing[0].item, missing[0].name, missing[0].reason)
        elif missing:
            clips = [Clip(loaded.audio, noise_seed(options.seed, loaded.name)) for loaded in batch.items if loaded.audio is not None]
            encoded = encoder.encode(clips, pad=options.pad)
            for loaded, latents in zip(batch.items, encoded, strict=True):
                if loaded.item not in done:
                    _write(loaded, latents, encoder, writer, cache, options)
                    written += 1
        if batch.ends is not None:
            writer.end_group(batch.ends)
        new += len(missing)
        samples += sum(loaded.audio.shape[-1] for loaded in missing if loaded.audio is not None)
        if on_progress is not None and missing:
            on_progress(ItemsProgress(finished + new, total, new, time.monotonic() - started, samples / rate))
    return written


def _write(
    loaded: Loaded, latents: Tensor, encoder: LatentEncoder, writer: StoreWriter, cache: ConditionCache, options: PreEncodeOptions
) -> None:
    assert loaded.audio is not None
    frames = encoder.num_frames(loaded.audio.shape[-1])
    stored = storable(latents, DTYPES[options.dtype])
    if stored.is_floating_point() and not torch.isfinite(stored).all():
        raise DataError(f"{loaded.name}: its latents do not fit into {options.dtype}; use --dtype bf16 or fp32")
    cache.keep(loaded.metadata)
    metadata = {**plain_metadata(loaded.metadata), "padding_mask": [int(frame < frames) for frame in range(stored.shape[-1])]}
    writer.write(loaded.item, stored, {**metadata, "downsampling_ratio": encoder.ratio, "stored": encoder.stored}, frames)


def _result(folder: Path, card: Mapping[str, Any], work: Work, format: Format, written: int) -> PreEncodeResult:  # noqa: A002
    """Count what all processes have done so far; whoever ends last completes the card."""
    wanted = work.ids
    known = [entry for item, entry in sorted(Done(folder, format).entries.items()) if item in wanted]
    skipped = [entry for entry in known if "skipped" in entry]
    is_complete = len(known) == len(wanted)
    if is_complete and len(skipped) == len(known):
        raise DataError(f"none of {len(known)} items could be used; the first: {skipped[0]['skipped']}")
    if is_complete and work.is_all:
        for half in (folder / CONDITIONS).glob("*/*/.*.tmp"):  # of a process that was killed
            half.unlink()
        finish_card(folder, card, known)
    text = f"{len(known) - len(skipped)} of {len(wanted)} items are in {folder}, {written} of them new"
    if skipped:
        reasons = "; ".join(entry["skipped"] for entry in skipped[:5])
        text += f"; skipped {len(skipped)} ({reasons}{'; the journals name all' if len(skipped) > 5 else ''})"
    return PreEncodeResult(folder, written, len(skipped), is_complete, text)
