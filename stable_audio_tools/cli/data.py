"""``sat data``: what is done with a folder before training on it."""

from __future__ import annotations

import typer

from stable_audio_tools.cli.data_pack import pack

app = typer.Typer(help="Look at, split and pack folders of audio.", no_args_is_help=True)
app.command("pack")(pack)


@app.callback()
def data() -> None:
    """Look at, split and pack folders of audio."""
