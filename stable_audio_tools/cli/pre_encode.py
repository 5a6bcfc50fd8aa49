"""``sat pre-encode`` and ``pre_encode.py``: audio becomes latents once, before training."""

from __future__ import annotations

import logging
import os
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from stable_audio_tools.cli.progress import ProgressLine
from stable_audio_tools.errors import ConfigError, counted

log = logging.getLogger(__name__)
Files, Machines, Storing = "Files", "Machines", "What is stored"


class Store(str, Enum):
    """What is stored of a VAE's distribution."""

    sample = "sample"
    mean = "mean"
    mean_scale = "mean-scale"


class Format(str, Enum):
    """Of the files."""

    npy = "npy"
    safetensors = "safetensors"
    wds = "wds"


class DType(str, Enum):
    """Of the numbers in them."""

    fp32 = "fp32"
    fp16 = "fp16"
    bf16 = "bf16"


def pre_encode(
    dataset_config: Annotated[Path, typer.Option(help="Dataset config (JSON) of audio.", rich_help_panel=Files)],
    output_path: Annotated[Path, typer.Option(help="Folder to write to, or to go on with.", rich_help_panel=Files)],
    model_config: Annotated[
        Path | None, typer.Option(help="Config (JSON) of an autoencoder, or of a model that has one.", rich_help_panel=Files)
    ] = None,
    ckpt_path: Annotated[Path | None, typer.Option(help="Its weights.", rich_help_panel=Files)] = None,
    pretrained_name: Annotated[
        str | None, typer.Option(help="Folder or Hugging Face id of a model, instead of both.", rich_help_panel=Files)
    ] = None,
    model_half: Annotated[bool, typer.Option(help="Encode in float16.")] = False,
    sample_size: Annotated[
        int | None, typer.Option(min=1, help="Samples of a crop; by default the model's, or 1320960 with an autoencoder.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Clips at a time and device.")] = 1,
    num_workers: Annotated[
        int | None, typer.Option(min=0, help="Processes that load audio, per device; by default 4, or the number of cores if less.")
    ] = None,
    store: Annotated[
        Store, typer.Option(help="Of a VAE: one draw, the mean, or mean and scale to draw from while training.", rich_help_panel=Storing)
    ] = Store.sample,
    is_discrete: Annotated[bool, typer.Option(help="Store tokens instead of latents.", rich_help_panel=Storing)] = False,
    dtype: Annotated[DType, typer.Option(help="Data type of latents.", rich_help_panel=Storing)] = DType.fp32,
    format: Annotated[Format, typer.Option(help="Of the files.", rich_help_panel=Storing)] = Format.npy,  # noqa: A002
    pad: Annotated[bool, typer.Option(help="Store whole crops; otherwise only what holds audio.", rich_help_panel=Storing)] = True,
    full_length: Annotated[bool, typer.Option("--full-length", help="Also encode the padding, which takes longer.")] = False,
    cache_conditions: Annotated[
        list[str] | None, typer.Option(help="Id of a text conditioner whose embeddings to keep; may be repeated.", rich_help_panel=Storing)
    ] = None,
    shard_size: Annotated[int, typer.Option(min=1, max=9999, help="Items per tar file, and per unit of work.")] = 64,
    limit_batches: Annotated[int | None, typer.Option(min=1, help="Stop after so many batches per device.")] = None,
    shuffle: Annotated[bool, typer.Option(help="Go through the items in random order.")] = False,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of noise, random crops and that order.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cuda, mps or cpu.", rich_help_panel=Machines)] = "auto",
    devices: Annotated[str, typer.Option(help="Processes on this machine; auto is one per GPU.", rich_help_panel=Machines)] = "auto",
    num_nodes: Annotated[int, typer.Option(min=1, help="Machines.", rich_help_panel=Machines)] = 1,
    strategy: Annotated[str, typer.Option(help="Has no effect; older scripts give it.", hidden=True)] = "auto",
) -> None:
    """Encode a dataset with a model, and write latents and metadata.

    Run the same command again after a crash or Ctrl-C, and it goes on where it was. torchrun and srun may start one process per device;
    otherwise this one does.
    """
    if strategy != "auto":
        log.warning("--strategy %s has no effect: processes work by themselves", strategy)
    if model_config is not None:
        from stable_audio_tools.config.check import parse_model_config

        parse_model_config(model_config)  # mistakes are told before anything heavy is imported
    from stable_audio_tools.preencode.machines import count_devices, find_place, start_others, stop, wait_for
    from stable_audio_tools.preencode.options import PreEncodeOptions, default_workers
    from stable_audio_tools.preencode.run import pre_encode as run

    num_devices = count_devices(devices, device)
    place, is_started = find_place(os.environ, num_nodes=num_nodes, num_devices=num_devices)
    if is_started and devices != "auto" and num_devices > place.world:
        raise ConfigError(
            f"--devices {devices}: torchrun or Slurm has started {counted(place.world, 'process', 'processes')}; leave it out"
        )
    if place.rank:
        logging.getLogger("stable_audio_tools").setLevel(logging.WARNING)  # the first process says it
    options = PreEncodeOptions(
        dataset_config=dataset_config,
        output_path=output_path,
        model_config=model_config,
        ckpt_path=ckpt_path,
        pretrained_name=pretrained_name,
        model_half=model_half,
        sample_size=sample_size,
        batch_size=batch_size,
        num_workers=default_workers() if num_workers is None else num_workers,
        store=store.value,
        is_discrete=is_discrete,
        dtype=dtype.value,
        format=format.value,
        pad=pad,
        full_length=full_length,
        shard_size=shard_size,
        limit_batches=limit_batches,
        shuffle=shuffle,
        seed=seed,
        cache_conditions=cache_conditions or (),
        device=device,
    )
    others = [] if is_started else start_others(place, num_devices)
    try:
        with ProgressLine(is_end_told=True) as line:
            result = run(options, place, None if place.rank else lambda progress: line.show(str(progress)))
            wait_for(others)
    finally:
        stop(others)
    if not place.rank:
        print(result.summary)


def script() -> None:
    """Entry point of ``pre_encode.py``."""
    from stable_audio_tools.cli.main import script_of

    script_of(pre_encode)
