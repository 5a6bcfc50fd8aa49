"""Kept import path of version 0.0.20. Adapters live in `stable_audio_tools.models.adapters`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.models.adapters.stack import stack_of


def load_and_apply_loras(
    model: nn.Module, lora_ckpt_paths: Sequence[str | Path] | str | Path, model_type: str | None = None, svd_bases_path: str | None = None
) -> nn.Module:
    """Use adapter files on a model, at full strength. Several add up, whatever layers they change.

    Args:
        model: A model with its weights.
        lora_ckpt_paths: Files, in any format that `read_adapter` knows.
        model_type: Has no effect: every kind of model can have adapters.
        svd_bases_path: Has no effect: what files of the ``-xs`` kinds leave out is computed from the model's weights.

    Returns:
        The model, with ``use_lora`` and ``lora_names``.

    Raises:
        CheckpointError: If a file is no adapter, does not fit the model, or changes nothing.
    """
    paths = [lora_ckpt_paths] if isinstance(lora_ckpt_paths, (str, Path)) else list(lora_ckpt_paths)
    stack = stack_of(model)
    for path in paths:
        name = Path(path).stem
        stack.load(path, name=name if name not in stack.strengths else f"{name} ({len(stack.strengths)})")
    model.use_lora = bool(stack.strengths)  # pyright: ignore[reportArgumentType]
    model.lora_names = list(stack.strengths)  # pyright: ignore[reportArgumentType]
    return model


def set_lora_strength(model: nn.Module, strength: float, lora_index: int | None = None) -> None:
    """Set how much an adapter does, by the order of loading; without an index, all of them. 0 is exactly the model without it."""
    stack_of(model).set_strength(strength, None if lora_index is None else _name(model, lora_index))


def remove_lora(model: nn.Module) -> None:
    """Stop using adapters."""
    stack_of(model).unload()


def remove_lora_by_index(model: nn.Module, lora_index: int) -> None:
    """Stop using an adapter, by the order of loading."""
    stack_of(model).unload(_name(model, lora_index))


def merge_lora(model: nn.Module) -> None:
    """Make the adapted weights the model's own."""
    stack_of(model).merge()


def _name(model: nn.Module, index: int) -> str:
    names = list(stack_of(model).strengths)
    if not 0 <= index < len(names):
        raise ConfigError(f"lora_index {index}: the model has {len(names)} adapters, counted from 0")
    return names[index]
