"""Time for memory, and memory for time: torch.compile, and recomputing activations."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from stable_audio_tools.models.layers.transformer_block import TransformerBlock
from stable_audio_tools.training.base import TrainingWrapper
from stable_audio_tools.training.randomness import isolated_randomness

logger = logging.getLogger(__name__)
SWITCHES = ("gradient_checkpointing", "checkpointing")  # attributes of modules that can recompute their activations


def recompute_activations(wrapper: TrainingWrapper) -> int:
    """Let every part that can recompute its activations in the backward pass, also an adversary's; returns how many there are.

    Warns if the model has none.
    """
    if not any(True for _ in _capable(wrapper.model)):
        model = type(wrapper.model).__name__
        logger.warning("--gradient-checkpointing has no effect: no part of %s can recompute its activations", model)
    found = list(_capable(wrapper))
    for module in found:
        if _is_of_transformers(module):
            module.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        else:
            for name in SWITCHES:
                if hasattr(module, name):
                    setattr(module, name, True)
    return len(found)


def _capable(module: nn.Module) -> Iterator[Any]:
    """The largest trained parts that can: what is inside another one would be computed three times."""
    if not _is_trained(module):
        return
    if _is_of_transformers(module) or any(isinstance(getattr(module, name, None), bool) for name in SWITCHES):
        yield module
    else:
        for child in module.children():
            yield from _capable(child)


def _is_of_transformers(module: nn.Module) -> bool:
    return getattr(module, "supports_gradient_checkpointing", False) and hasattr(module, "gradient_checkpointing_enable")


def compile_blocks(model: nn.Module, device: str | torch.device = "cpu") -> bool:
    """Compile what repeats, its transformer blocks, or else its parts, in place; state dicts stay as they are.

    Whether compiling works here is tried on a small network first. If it does not, one warning says so, and the model stays as it was.

    Args:
        model: The model.
        device: Where it will run.
    """
    reason = why_not_compile(device)
    if reason is not None:
        logger.warning("--compile: torch.compile does not work here (%s): going on without", reason)
        return False
    blocks = [module for module in model.modules() if isinstance(module, TransformerBlock) and _is_trained(module)]
    for module in blocks or [child for child in model.children() if _is_trained(child)]:
        module.compile()
    return True


def why_not_compile(device: str | torch.device = "cpu") -> str | None:
    """Why torch.compile does not work on a device; None if it does."""

    def run(x: Tensor) -> Tensor:
        return probe(x)

    try:
        with isolated_randomness(0):  # a run draws the same numbers with and without
            probe = nn.Sequential(nn.Linear(2, 2), nn.GELU()).to(device)
            torch.compile(run)(torch.ones(1, 2, device=device)).sum().backward()
    except Exception as error:  # noqa: BLE001 - compilers fail in as many ways as there are compilers
        text = " ".join(str(error).split()) or type(error).__name__
        return text[:200]
    return None


def _is_trained(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())
