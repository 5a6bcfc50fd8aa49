"""``sat data pack``: shards of a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stable_audio_tools.cli.progress import FilesLine
from stable_audio_tools.errors import counted


def pack(
    folder: Annotated[Path, typer.Argument(help="Folder of audio, or of latents from pre-encoding.", show_default=False)],
    out: Annotated[str, typer.Argument(help="Where the shards go: a folder, or a URL such as s3://bucket/music.", show_default=False)],
    shard_mb: Annotated[float, typer.Option(help="Size that a shard grows to, in MB.", min=0.001)] = 500.0,
    shard_items: Annotated[int | None, typer.Option(help="Most samples in a shard.", min=1, show_default="no limit")] = None,
    jobs: Annotated[int, typer.Option("--jobs", "-j", help="Shards written at a time.", min=1)] = 4,
    shuffle: Annotated[bool, typer.Option(help="Mix the files, so that each shard has some of everything.")] = True,
    seed: Annotated[int, typer.Option(help="Of the order of files.", min=0)] = 0,
    caption: Annotated[str | None, typer.Option(help="Caption of files that have no other.", show_default=False)] = None,
    captions_file: Annotated[
        Path | None, typer.Option(help="CSV table path,caption.", show_default="captions.csv in the folder, if there is one")
    ] = None,
    custom_metadata_module: Annotated[
        Path | None, typer.Option(help="Python file with get_custom_metadata(info, audio).", show_default=False)
    ] = None,
    filelist_path: Annotated[
        Path | None,
        typer.Option(
            help="List of the files to pack, such as train.txt of sat data split.",
            show_default="filelist.txt in the folder, if there is one",
        ),
    ] = None,
    profile: Annotated[str | None, typer.Option(help="Name of the credentials to use, for s3://.", show_default=False)] = None,
    endpoint_url: Annotated[str | None, typer.Option(help="Server of an S3-compatible store.", show_default=False)] = None,
) -> None:
    """Pack a folder with its captions and metadata into WebDataset shards, for dataset types wds and s3.

    Each shard is a plain .tar with an .idx file that says where its samples are; index.json counts them all. Interrupted, the same
    command goes on.
    """
    from stable_audio_tools.data.shards.pack import PackOptions, pack

    storage = {key: value for key, value in (("profile", profile), ("endpoint_url", endpoint_url)) if value}
    options = PackOptions(
        shard_bytes=round(shard_mb * 1e6),
        shard_samples=shard_items,
        num_jobs=jobs,
        seed=seed if shuffle else None,
        caption=caption,
        captions_file=captions_file,
        custom_metadata_module=custom_metadata_module,
        filelist_path=filelist_path,
        storage_options=storage,
    )

    with FilesLine() as progress:
        result = pack(folder, out, options, on_progress=progress)
    samples, shards = counted(result.num_samples, "sample"), counted(result.num_shards, "shard")
    print(f"{samples} in {shards}, {result.num_bytes / 1e6:.1f} MB: {out}")
    if result.num_kept:
        print(f"there already: {counted(result.num_kept, 'shard')}")
    if result.num_left_out:
        print(f"left out, as unreadable or rejected: {counted(result.num_left_out, 'file')}")
