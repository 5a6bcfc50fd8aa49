"""``sat``: finds its commands, and prints errors without a traceback."""

from __future__ import annotations

import logging
import os
import sys
from typing import Annotated

import typer

from stable_audio_tools.cli import check, demo, generate, list_parts, schema, show, train, unwrap
from stable_audio_tools.errors import StableAudioError

app = typer.Typer(
    name="sat",
    help="Train, fine-tune and run generative audio models.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)
app.command("demo")(demo.demo)
app.command("train")(train.train)
app.command("generate")(generate.generate)
app.command("unwrap")(unwrap.unwrap)
app.command("check")(check.check)
app.command("list")(list_parts.list_parts)
app.command("show")(show.show)
app.command("schema")(schema.schema)


def _version(value: bool) -> None:
    if value:
        from stable_audio_tools import __version__

        print(f"stable-audio-tools {__version__}")
        raise typer.Exit


@app.callback()
def options(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more, and show tracebacks of errors.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Train, fine-tune and run generative audio models described by JSON configs."""
    set_up_logging(verbose)


def set_up_logging(verbose: bool = False) -> None:
    """Log our messages to stderr as plain lines, and those of libraries only when they warn."""
    handler = logging.StreamHandler()
    handler.setFormatter(_PlainFormatter())
    root = logging.getLogger("stable_audio_tools")
    root.handlers[:] = [handler]
    root.setLevel(logging.DEBUG if verbose else logging.INFO)
    root.propagate = False
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # forked data workers would warn about it


def quiet_lightning() -> None:
    """Let Lightning speak only when it warns. To be called after it was imported, since importing it sets its log level."""
    if not logging.getLogger("stable_audio_tools").isEnabledFor(logging.DEBUG):
        for name in ("pytorch_lightning", "lightning_fabric"):
            logging.getLogger(name).setLevel(logging.WARNING)


class _PlainFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return text if record.levelno <= logging.INFO else f"{record.levelname.lower()}: {text}"


def run(application: typer.Typer) -> None:
    """Run a Typer application; a user's mistake becomes one message on stderr and exit status 1."""
    try:
        application()
    except StableAudioError as error:
        if "--verbose" in sys.argv or "-v" in sys.argv:
            raise
        print(f"error: {error}" if "\n" not in str(error) else str(error), file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)


def main() -> None:
    """Entry point of ``sat``."""
    run(app)


if __name__ == "__main__":
    main()
