"""``sat``: finds its commands, and prints errors without a traceback."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from stable_audio_tools.cli import check, data, demo, generate, list_parts, lora, pre_encode, schema, show, train, ui, unwrap
from stable_audio_tools.errors import StableAudioError

CONTEXT: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 120}
app = typer.Typer(
    name="sat",
    help="Train, fine-tune and run generative audio models.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings=CONTEXT,
)
app.command("demo", short_help="Train a small model here and now, and listen to it.")(demo.demo)
app.command("train", short_help="Train or fine-tune a model.")(train.train)
app.command("pre-encode", short_help="Encode a dataset once, before training on it.")(pre_encode.pre_encode)
app.command("generate", short_help="Make audio files from prompts.")(generate.generate)
app.command("ui", short_help="Generate in a browser.")(ui.ui)
app.command("unwrap", short_help="Make a model of a training checkpoint.")(unwrap.unwrap)
app.add_typer(data.group, name="data", short_help="Measure, check, split and pack audio files.")
app.add_typer(lora.app, name="lora", short_help="Merge adapters into a model, extract them, or look at one.")
app.command("check", short_help="Find every mistake in config files.")(check.check)
app.command("list", short_help="List the parts that configs can name.")(list_parts.list_parts)
app.command("show", short_help="Show one part and what its config may say.")(show.show)
app.command("schema", short_help="Print JSON Schema of configs, for editors.")(schema.schema)

_UsageError: Any = typer.BadParameter.__base__  # click's; newer versions of Typer bring a copy of their own


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
    command = typer.main.get_command(application)
    try:
        with command.make_context(Path(sys.argv[0]).name, sys.argv[1:]) as context:
            command.invoke(context)
        sys.stdout.flush()
    except typer.Exit as done:
        sys.exit(done.exit_code)
    except _UsageError as error:
        error.show()
        sys.exit(error.exit_code)
    except BrokenPipeError:  # whoever reads our output has seen enough, as in `sat list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except (StableAudioError, OSError) as error:
        if "--verbose" in sys.argv or "-v" in sys.argv:
            raise
        print(_message(error), file=sys.stderr)
        sys.exit(1)
    except (KeyboardInterrupt, typer.Abort):
        print("stopped", file=sys.stderr)
        sys.exit(130)


def script_of(command: Callable[..., Any]) -> None:
    """Run one command as a script of its own, such as ``train.py``."""
    set_up_logging()
    application = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False, context_settings=CONTEXT)
    application.command()(command)
    run(application)


def _message(error: Exception) -> str:
    """One error in words. Several mistakes of a config have a line each, with their own positions."""
    if isinstance(error, OSError) and error.strerror:
        return f"error: {error.filename}: {error.strerror}" if error.filename is not None else f"error: {error.strerror}"
    return str(error) if "\n" in str(error) else f"error: {error}"


def main() -> None:
    """Entry point of ``sat``."""
    run(app)


if __name__ == "__main__":
    main()
