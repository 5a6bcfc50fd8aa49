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
    train_clips: Annotated[int | None, typer.Option(min=4, help="Synthesised clips per class to train on; by default 100.")] = None,
    held_out_clips: Annotated[int | None, typer.Option(min=2, help="Synthesised clips per class to hold out; by default 30.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of everything that is drawn at random.")] = 0,
    fresh: Annotated[bool, typer.Option("--fresh", help="Throw away what an earlier demo left in the output folder.")] = False,
) -> None:
    """Train a small text-to-audio model here and now, generate from prompts, measure the result, and write a page to listen to.

    Stopped with Ctrl-C, it goes on where it was when the same command is given again.
    """
    from stable_audio_tools.cli.main import quiet_lightning
    from stable_audio_tools.demo.folder import DemoSettings
    from stable_audio_tools.demo.run import run_demo
    from stable_audio_tools.errors import ConfigError

    quiet_lightning()
    library = logging.getLogger("stable_audio_tools")
    if not library.isEnabledFor(logging.DEBUG):
        library.setLevel(logging.WARNING)  # the demo says what matters itself
    if audio_dir is None and (captions is not None or classes is not None):
        raise ConfigError("--captions and --classes describe a folder of your own: give --audio-dir too")
    if audio_dir is not None and (train_clips is not None or held_out_clips is not None):
        raise ConfigError("--train-clips and --held-out-clips say how many sounds to synthesise: leave them out with --audio-dir")
    settings = DemoSettings(
        output=output,
        audio_dir=audio_dir,
        captions=captions,
        classes=classes,
        minutes=minutes,
        max_steps=max_steps,
        num_train=train_clips if train_clips is not None else DemoSettings.num_train,
        num_held_out=held_out_clips if held_out_clips is not None else DemoSettings.num_held_out,
        clips_per_class=clips_per_class,
        seed=seed,
    )
    try:
        evaluation = run_demo(settings, say=_say, fresh=fresh)
    except KeyboardInterrupt:
        evaluation = None
    if evaluation is None:
        _say("stopped; type the same command to go on")
        raise typer.Exit(130)


def _say(line: str) -> None:
    print(line, flush=True)  # progress is for now, also when it goes to a file
