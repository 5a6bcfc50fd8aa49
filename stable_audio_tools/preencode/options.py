"""PreEncodeOptions: what to encode, with what, and where to."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.preencode.encoder import Stored
from stable_audio_tools.preencode.store import Format

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
MOST_WORKERS = 4  # that are started unasked
GROUP = 64  # items that are done together: so many at most are encoded again after a crash


def default_workers() -> int:
    """Processes that load audio if nobody says how many: 4, or as many as this process may use cores, if those are fewer."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(MOST_WORKERS, cores)


@dataclass(frozen=True, kw_only=True)
class PreEncodeOptions:
    """What to encode, with what, and where to.

    Attributes:
        dataset_config: JSON file, or the config itself.
        output_path: The store.
        model_config: JSON file, or the config itself.
        ckpt_path: Unwrapped model, or training checkpoint.
        pretrained_name: Folder, or id on the hub, of a published model, instead of these two.
        model_half: Encode in float16.
        sample_size: Samples of a crop; None is the ``sample_size`` of a model that generates, and 1320960 for an autoencoder.
        batch_size: Clips at a time.
        num_workers: Processes that load audio; by default see `default_workers`.
        store: ``sample``, ``mean`` or ``mean-scale``.
        is_discrete: Store tokens instead.
        dtype: ``fp32``, ``fp16`` or ``bf16``.
        format: ``npy``, ``safetensors`` or ``wds``.
        pad: Store every item with the length of a whole crop; otherwise only frames that hold audio.
        full_length: Also encode every item with padding up to a whole crop.
        shard_size: Items per group, which is what is done again after a crash, and per tar file.
        limit_batches: Encode so many batches at most.
        shuffle: Go through the items in random order.
        seed: Of noise, random crops and that order.
        cache_conditions: Ids of text conditioners whose embeddings to keep.
        device: ``auto``, ``cuda``, ``mps`` or ``cpu``.
    """

    dataset_config: str | Path | Mapping[str, Any]
    output_path: str | Path
    model_config: str | Path | Mapping[str, Any] | None = None
    ckpt_path: str | Path | None = None
    pretrained_name: str | None = None
    model_half: bool = False
    sample_size: int | None = None
    batch_size: int = 1
    num_workers: int = field(default_factory=default_workers)
    store: Stored = "sample"
    is_discrete: bool = False
    dtype: str = "fp32"
    format: Format = "npy"
    pad: bool = True
    full_length: bool = False
    shard_size: int = GROUP
    limit_batches: int | None = None
    shuffle: bool = False
    seed: int = 0
    cache_conditions: Sequence[str] = ()
    device: str = "auto"


def refuse_impossible(options: PreEncodeOptions) -> None:
    """Refuse what cannot work whatever the model and the data are.

    Raises:
        ConfigError: Naming the flag.
    """
    for flag, value in (
        ("--batch-size", options.batch_size), ("--sample-size", options.sample_size), ("--limit-batches", options.limit_batches),
        ("--shard-size", options.shard_size),
    ):  # fmt: skip
        if value is not None and value < 1:
            raise ConfigError(f"{flag} is at least 1, got {value}")
    if options.num_workers < 0:
        raise ConfigError(f"--num-workers is at least 0, got {options.num_workers}")
    if options.shard_size > 9999:
        raise ConfigError(f"--shard-size is at most 9999, got {options.shard_size}")
    for flag, value, allowed in (
        ("--dtype", options.dtype, [*DTYPES]), ("--format", options.format, ["npy", "safetensors", "wds"]),
        ("--store", options.store, ["sample", "mean", "mean-scale"]),
    ):  # fmt: skip
        if value not in allowed:
            raise ConfigError(f"{flag} is one of {', '.join(allowed)}, got {value!r}")
    if options.dtype == "bf16" and options.format != "safetensors":
        raise ConfigError(f"--dtype bf16: NPY files, and --format {options.format}, cannot hold it; add --format safetensors, or use fp16")
    if (options.pretrained_name is None) == (options.model_config is None):
        raise ConfigError("--model-config with --ckpt-path, or --pretrained-name: give one of them")
    if options.pretrained_name is not None and options.ckpt_path is not None:
        raise ConfigError("--pretrained-name has weights of its own; leave out --ckpt-path")
    if options.model_config is not None and options.ckpt_path is None:
        raise ConfigError("--ckpt-path: the weights to encode with; fresh ones would make latents that mean nothing")
    if Path(options.output_path).is_file():
        raise ConfigError(f"--output-path {options.output_path}: is a file; give a folder")
