"""``sat data``: look after audio files before training: scan, lint, split, pack."""

from __future__ import annotations

import typer

from stable_audio_tools.cli import data_lint, data_pack, data_scan, data_split

group = typer.Typer(
    help="Look after audio files: measure them, find what is wrong with them, divide them into sets, pack them into shards.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
group.command("scan", short_help="Write down what every file of a folder is.")(data_scan.scan)
group.command("lint", short_help="Find what is wrong with the files.")(data_lint.lint)
group.command("split", short_help="Divide the files into sets for training and validation.")(data_split.split)
group.command("pack", short_help="Pack a folder into shards, for dataset types wds and s3.")(data_pack.pack)
