"""``sat train`` and ``train.py``: train a model as its config says."""

from __future__ import annotations

import ast
import configparser
import dataclasses
import inspect
import logging
import shlex
import typing
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.registry import closest
from stable_audio_tools.training.options import FILES, MACHINES, Flag, TrainOptions

if TYPE_CHECKING:
    from stable_audio_tools.config.source import Source
    from stable_audio_tools.training.run import TrainResult

log = logging.getLogger(__name__)
ADAPTERS = "Adapters"


def read_defaults(path: Path, known: list[str]) -> dict[str, Any]:
    """Defaults of options from an INI file: ``name = value``, values written as in Python.

    Raises:
        ConfigError: If the file is missing or names an option that does not exist.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; --config-file names an INI file with default options, such as defaults.ini")
    parser = configparser.ConfigParser(inline_comment_prefixes=("#", ";"), interpolation=None)
    try:
        parser.read_string(path.read_text(encoding="utf-8"), source=str(path))
    except (configparser.Error, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split()).removesuffix(f" file: '{path}'")
        raise ConfigError(f"{path}: is not an INI file: {reason}") from error
    values: dict[str, Any] = {}
    for section in (parser.default_section, *parser.sections()):
        for key, text in parser[section].items():
            name = key.replace("-", "_")
            if name not in known:
                guess = closest(name, known)
                raise ConfigError(f"{path}: unknown option {key!r}{f'; did you mean {guess!r}?' if guess else ''}")
            try:
                value = ast.literal_eval(text)
            except (ValueError, SyntaxError):
                value = text
            if value not in ("", None):
                values[name] = str(value)
    return values


def load_defaults(context: typer.Context, path: Path | None) -> Path | None:
    """Callback of ``--config-file``: what the file says becomes the default of every option that is not given."""
    if path is not None:
        known = [parameter.name for parameter in context.command.params if parameter.name]
        context.default_map = {**(context.default_map or {}), **read_defaults(path, known)}
    return path


def train(
    *,
    config_file: Annotated[
        Path | None,
        typer.Option(help="INI file with defaults of these options.", is_eager=True, callback=load_defaults, rich_help_panel=FILES),
    ] = None,
    num_gpus: Annotated[int | None, typer.Option(min=1, help="Same as --devices, for older scripts.", rich_help_panel=MACHINES)] = None,
    wandb_config: Annotated[str | None, typer.Option(help="Has no effect; older scripts give it.", hidden=True)] = None,
    project: Annotated[str | None, typer.Option(help="Same as --name, for older scripts.", hidden=True)] = None,
    adapter: Annotated[
        str | None,
        typer.Option(
            help="Train an adapter instead of the model: its kind ('sat list adapters'), 'config' for what the config says, or lora if it "
            "says nothing, or 'none' for the model whatever the config says.",
            rich_help_panel=ADAPTERS,
        ),
    ] = None,
    adapter_rank: Annotated[int | None, typer.Option(min=1, help="Capacity and size of the adapter (8).", rich_help_panel=ADAPTERS)] = None,
    adapter_alpha: Annotated[float | None, typer.Option(help="Scale times rank (the rank).", rich_help_panel=ADAPTERS)] = None,
    adapter_targets: Annotated[
        list[str] | None,
        typer.Option(help="Patterns of layer names, separated by commas; by default all of the network.", rich_help_panel=ADAPTERS),
    ] = None,
    adapter_from: Annotated[
        Path | None, typer.Option("--adapter-from", "--lora-ckpt-path", help="Adapter file to start from.", rich_help_panel=ADAPTERS)
    ] = None,
    **values: Any,
) -> None:
    """Train a model, or fine-tune one (--pretrained-ckpt-path), or go on with a run (--ckpt-path, --recover).

    The run's folder, below --save-dir, gets checkpoints, demos, and curves for TensorBoard. Ctrl-C or SIGTERM saves a checkpoint and stops.
    """
    if num_gpus is not None and values["devices"] not in ("auto", str(num_gpus)):
        raise ConfigError(f"--num-gpus {num_gpus} and --devices {values['devices']} say different things; give one of them")
    from stable_audio_tools.cli.main import quiet_lightning
    from stable_audio_tools.config.check import parse_model_config
    from stable_audio_tools.config.source import read_source

    if wandb_config is not None:
        log.warning("--wandb-config has no effect; Weights & Biases reads its settings from WANDB_... environment variables")
    values = {key: value.value if isinstance(value, Enum) else value for key, value in values.items()}
    model_config = values["model_config"]
    source = read_source(model_config)
    parse_model_config(source, strict=True)  # mistakes are told before anything heavy is imported
    values |= {
        "model_config": _with_adapter(source, adapter, adapter_rank, adapter_alpha, adapter_targets, adapter_from),
        "name": project or values["name"],
        "devices": num_gpus if num_gpus is not None else _devices(values["devices"]),
    }
    from pytorch_lightning.utilities import rank_zero_only

    quiet_lightning()
    if rank_zero_only.rank:  # pyright: ignore[reportFunctionMemberAccess]
        logging.getLogger("stable_audio_tools").setLevel(logging.WARNING)  # the first process says it
    options = TrainOptions(**values)
    if options.overfit:
        from stable_audio_tools.training.overfit import overfit

        verdict = overfit(options)
        print(verdict)
        raise typer.Exit(0 if verdict.can_learn else 3)
    from stable_audio_tools.training.run import train as run

    _tell(run(options), model_config)


def _flags() -> Iterator[inspect.Parameter]:
    """The fields of `TrainOptions` that are flags, and what `train` has besides, as Typer reads them."""
    hints = typing.get_type_hints(TrainOptions, include_extras=True)
    for field in dataclasses.fields(TrainOptions):
        flag: Flag | None = next(iter(getattr(hints[field.name], "__metadata__", ())), None)
        if flag is None:
            continue
        kind = flag.kind or typing.get_args(hints[field.name])[0]
        default = inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default
        if typing.get_origin(kind) is Literal:
            choices: Any = Enum(field.name, {choice: choice for choice in typing.get_args(kind)})
            kind, default = choices, choices(default)
        option = typer.Option(help=flag.help, rich_help_panel=flag.panel, min=flag.least, max=flag.most)
        annotation = Annotated[kind, option]  # type: ignore[valid-type]
        yield inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
    own = inspect.signature(train, eval_str=True).parameters.values()
    yield from (parameter for parameter in own if parameter.kind is parameter.KEYWORD_ONLY)


_FLAGS = list(_flags())
train.__signature__ = inspect.Signature(_FLAGS)  # type: ignore[attr-defined]
train.__annotations__ = {parameter.name: parameter.annotation for parameter in _FLAGS}


def _with_adapter(
    source: Source, kind: str | None, rank: int | None, alpha: float | None, targets: list[str] | None, start_from: Path | None
) -> Source:
    """The config with what the flags say about an adapter; checked again if they say something."""
    from stable_audio_tools.config.check import parse_model_config
    from stable_audio_tools.config.training.adapters import with_adapter

    names = ("--adapter-rank", "--adapter-alpha", "--adapter-targets", "--adapter-from")
    given = [name for name, value in zip(names, (rank, alpha, targets, start_from), strict=True) if value is not None]
    if kind is None and not given:
        return source
    if kind == "none" and given:
        raise ConfigError(f"{given[0]} has no effect with --adapter none; leave one of them out")
    flags: dict[str, Any] = {} if kind in (None, "config") else {"type": kind}
    options = {name: value for name, value in (("rank", rank), ("alpha", alpha)) if value is not None}
    if options:
        flags["config"] = options
    if targets is not None:
        flags["targets"] = [part.strip() for text in targets for part in text.split(",") if part.strip()]
    if start_from is not None:
        flags["start_from"] = str(start_from)
    source = source._replace(data=with_adapter(source.data, flags))
    parse_model_config(source, strict=True)
    return source


def _tell(result: TrainResult, model_config: Path) -> None:
    """Say what the run left and what to do with it; only once, whatever the number of its processes."""
    if not result.is_main:
        raise typer.Exit(128 + result.stop_signal if result.stop_signal is not None else 0)
    if result.checkpoint is not None:
        print(f"last checkpoint: {result.checkpoint}")
    if result.stop_signal is not None:
        print(f"stopped at step {result.step}; go on with --ckpt-path {shlex.quote(str(result.checkpoint))}")
        raise typer.Exit(128 + result.stop_signal)
    file = result.folder / "adapters" / f"step={result.step}.safetensors"
    if file.exists():
        print(f"adapter: {file}; use it with: sat generate ... --lora {shlex.quote(str(file))}")
    elif result.checkpoint is not None:
        files = f"--model-config {shlex.quote(str(model_config))} --ckpt-path {shlex.quote(str(result.checkpoint))}"
        print(f"make a model of it with: sat unwrap {files} --name my_model")


def _devices(text: str) -> str | int:
    return int(text) if text.isdigit() else text


def script_lora() -> None:
    """Entry point of ``train_lora.py``: like `script`, for an adapter: the one in the config, or else a LoRA."""
    import sys

    if not any(argument == "--adapter" or argument.startswith("--adapter=") for argument in sys.argv):
        sys.argv += ["--adapter", "config"]
    script()


def script() -> None:
    """Entry point of ``train.py``: `train` with the defaults of ``defaults.ini`` beside the script."""
    import sys

    from stable_audio_tools.cli.main import script_of

    for flag in [index for index, argument in enumerate(sys.argv[:-1]) if argument == "--recover"]:
        if sys.argv[flag + 1].lower() in ("true", "false"):  # older scripts give a value
            sys.argv[flag : flag + 2] = ["--recover" if sys.argv[flag + 1].lower() == "true" else "--no-recover"]
    if not any(argument.startswith("--config-file") for argument in sys.argv):
        beside = Path(sys.argv[0]).resolve().parent / "defaults.ini"
        if beside.is_file():
            sys.argv[1:1] = ["--config-file", str(beside)]
    script_of(train)
