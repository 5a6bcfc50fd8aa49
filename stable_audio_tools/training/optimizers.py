"""Optimizers by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.registry import closest


def create_optimizer_from_config(optimizer_config: Mapping[str, Any], parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Make an optimizer for the parameters that require gradients.

    Args:
        optimizer_config: ``{"type": ..., "config": {...}}`` with the name of one of torch's optimizers.
        parameters: Parameters; frozen ones are left out.

    Raises:
        ConfigError: If there is no such optimizer, it refuses its config, or nothing is trainable.
    """
    name, config = optimizer_config["type"], dict(optimizer_config.get("config", {}))
    known = [key for key, value in vars(torch.optim).items() if isinstance(value, type) and issubclass(value, torch.optim.Optimizer)]
    found = getattr(torch.optim, name, None) if name in known else None
    if found is None:
        guess = closest(name, known)
        raise ConfigError(f"unknown optimizer {name!r}; {f'did you mean {guess!r}?' if guess else f'known: {known}'}")
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    if not trainable:
        raise ConfigError(f"optimizer {name!r} has nothing to train: every parameter is frozen")
    if "betas" in config:
        config["betas"] = tuple(config["betas"])
    try:
        return found(trainable, **config)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"optimizer {name!r}: {error}") from error
