"""Time for memory, and memory for time: torch.compile, and recomputing activations."""

from __future__ import annotations

import logging

import torch
from torch import Tensor, nn

from stable_audio_tools.models.layers.transformer_block import TransformerBlock
from stable_audio_tools.training.randomness import isolated_randomness

logger = logging.getLogger(__name__)
SWITCHES = ("gradient_checkpointing", "checkpointing")  # attributes of modules that can recompute their activations


def recompute_activations(model: nn.Module) -> int:
    """Let every part that can recompute its activations in the backward pass; returns how many there are, and warns if none."""
    found = 0
    for module in model.modules():
        for name in SWITCHES:
            if isinstance(getattr(module, name, None), bool):
                setattr(module, name, True)
                found += 1
    if not found:
        logger.warning("--gradient-checkpointing has no effect: no part of %s can recompute its activations", type(model).__name__)
    return found


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
