"""``sat demo``: train, listen, measure; no account, no download, no GPU."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer


def demo(
    output: Annotated[Path, typer.Option(help="Folder for everything it makes.")] = Path("runs/demo"),
    audio_dir: Annotated[Path | None, typer.Option(help="A folder of your own sounds; without it, sounds are synthesised.")] = None,
    captions: Annotated[Path | None, typer.Option(help="CSV table path,caption for it; by default captions.csv in the folder.")] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            help="Classes in your folder, by what captions contain: 'kick|bass drum,snare,hat|hi-hat|!open'. "
            "Without it, words that sound different are chosen."
        ),
    ] = None,
    minutes: Annotated[float | None, typer.Option(min=0.05, help="How long to train at most; 5, or 10 with --audio-dir.")] = None,
    max_steps: Annotated[int, typer.Option(min=1, help="How many steps to train at most.")] = 3000,
    clips_per_class: Annotated[int, typer.Option(min=2, help="Clips to generate for each class.")] = 8,
    train_clips: Annotated[int, typer.Option(min=4, help="Synthesised clips per class to train on.")] = 100,
    held_out_clips: Annotated[int, typer.Option(min=2, help="Synthesised clips per class to hold out.")] = 30,
    seed: Annotated[int, typer.Option(help="Of everything.")] = 0,
    fresh: Annotated[bool, typer.Option("--fresh", help="Throw away what an earlier demo left in the output folder.")] = False,
) -> None:
    """Train a small text-to-audio model here and now, generate from prompts, measure the result, and write a page to listen to.

    Stopped with Ctrl-C, it goes on where it was when the same command is given again.
    """
    from stable_audio_tools.cli.main import quiet_lightning
    from stable_audio_tools.demo.run import DemoSettings, run_demo
    from stable_audio_tools.errors import ConfigError

    quiet_lightning()
    library = logging.getLogger("stable_audio_tools")
    if not library.isEnabledFor(logging.DEBUG):
        library.setLevel(logging.WARNING)  # the demo says what matters itself
    if audio_dir is None and (captions is not None or classes is not None):
        raise ConfigError("--captions and --classes describe a folder of your own: give --audio-dir too")
    settings = DemoSettings(
        output=output,
        audio_dir=audio_dir,
        captions=captions,
        classes=classes,
        minutes=minutes,
        max_steps=max_steps,
        num_train=train_clips,
        num_held_out=held_out_clips,
        clips_per_class=clips_per_class,
        seed=seed,
    )
    if run_demo(settings, say=print, fresh=fresh) is None:
        raise typer.Exit(130)
