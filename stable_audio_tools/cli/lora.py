"""``sat lora``: adapters as files: merged into a model, extracted from two, or looked at."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
ModelConfig = Annotated[Path, typer.Option(help="Model config (JSON).")]


@app.callback()
def lora() -> None:
    """Adapters as files. 'sat train --adapter' makes them, and 'sat generate --lora' uses them."""


@app.command()
def merge(
    model_config: ModelConfig,
    ckpt_path: Annotated[Path, typer.Option(help="Model weights: an unwrapped model or a training checkpoint.")],
    lora: Annotated[list[str], typer.Option(help="Adapter file, or FILE:STRENGTH; may be given several times.")],
    name: Annotated[str, typer.Option(help="The new file: a name or path.")] = "merged.safetensors",
) -> None:
    """Write a model with adapters in it, which then needs none."""
    from stable_audio_tools.checkpoint import load_model_weights, save_model_weights
    from stable_audio_tools.cli.generate import adapter_and_strength
    from stable_audio_tools.models import create_model_from_config_path
    from stable_audio_tools.models.adapters import stack_of

    target = _target(name)
    model = create_model_from_config_path(model_config)
    load_model_weights(model, ckpt_path)
    for index, text in enumerate(lora):
        path, strength = adapter_and_strength(text)
        stack_of(model).load(path, strength, name=str(index))
    stack_of(model).merge()
    save_model_weights(model.state_dict(), target, metadata={"adapters": ", ".join(lora)})
    print(target)


@app.command()
def extract(
    model_config: ModelConfig,
    base: Annotated[Path, typer.Option(help="The model from before: unwrapped, or a training checkpoint.")],
    tuned: Annotated[Path, typer.Option(help="The model from after.")],
    rank: Annotated[int, typer.Option(min=1, help="Capacity and size of the adapter.")] = 8,
    targets: Annotated[str | None, typer.Option(help="Patterns of layer names, separated by commas; by default every layer.")] = None,
    name: Annotated[str, typer.Option(help="The new file: a name or path.")] = "extracted.safetensors",
) -> None:
    """Write the adapter that comes closest to the difference of two models of one config."""
    from stable_audio_tools.checkpoint import load_model_weights
    from stable_audio_tools.config.check import parse_model_config
    from stable_audio_tools.models import create_model_from_config_path
    from stable_audio_tools.models.adapters import extract_adapter, save_adapter

    target = _target(name)
    model_type = parse_model_config(model_config).model_type
    model, after = create_model_from_config_path(model_config), create_model_from_config_path(model_config)
    load_model_weights(model, base)
    load_model_weights(after, tuned)
    patterns = [part.strip() for part in targets.split(",") if part.strip()] if targets is not None else None
    found = extract_adapter(model, after.state_dict(), rank=rank, targets=patterns)
    adapter = found.adapter
    known: dict[str, Any] = {"kind": adapter.kind, "config": adapter.config, "base_hash": adapter.header["base_hash"]}
    save_adapter(target, adapter.tensors, **known, model_type=model_type)
    print(f"{target}: {len(adapter.tensors)} layers, {found.captured:.1%} of the squared difference")
    if found.left_out:
        more = ", ..." if len(found.left_out) > 4 else ""
        print(f"not in it: {len(found.left_out)} tensors that differ, such as {', '.join(found.left_out[:4])}{more}")


@app.command()
def info(path: Annotated[Path, typer.Argument(help="Adapter file.")]) -> None:
    """Say what is in an adapter file: kind, options, layers, training steps, and the weights that it was made for."""
    from stable_audio_tools.models.adapters import read_adapter

    adapter = read_adapter(path)
    options = ", ".join(f"{key} {value}" for key, value in adapter.config.items() if value is not None)
    print(f"kind: {adapter.kind} ({options})")
    for key, value in adapter.header.items():
        print(f"{key}: {value}")
    print(f"parameters: {adapter.num_parameters:,}")
    print(f"layers: {len(adapter.tensors)}")
    for layer in adapter.tensors:
        print(f"  {layer}")


def _target(name: str) -> Path:
    from stable_audio_tools.errors import ConfigError

    target = Path(name if name.endswith(".safetensors") else f"{name}.safetensors")
    if target.is_dir() or target.name == ".safetensors":
        raise ConfigError(f"--name {name!r}: name the new file, for example --name my_model")
    return target
