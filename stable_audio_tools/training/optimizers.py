"""Optimizers by name, and what is different for some parameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from stable_audio_tools.config.training.optimizers import ParameterGroup
from stable_audio_tools.errors import ConfigError
from stable_audio_tools.families import OPTIMIZERS
from stable_audio_tools.registry import closest
from stable_audio_tools.training.parameters import is_vector, matches

Named = tuple[str, nn.Parameter]


def create_optimizer_from_config(
    optimizer_config: Mapping[str, Any], parameters: Iterable[nn.Parameter] | Iterable[Named]
) -> torch.optim.Optimizer:
    """Make an optimizer for the parameters that require gradients.

    Args:
        optimizer_config: ``{"type": ..., "config": {...}}`` with the name of one of torch's optimizers or of ours (``sat list
            optimizers``). ``parameter_groups`` and ``no_decay_on_vectors`` as in `OptimizerBlock`.
        parameters: Parameters, or pairs of name and parameter, which groups by name need; frozen ones are left out.

    Raises:
        ConfigError: If there is no such optimizer, it refuses its config, nothing is trainable, or a group is empty.
        MissingExtraError: If it is another package's, which is not installed.
    """
    name, config = optimizer_config["type"], dict(optimizer_config.get("config", {}))
    torchs = [key for key, value in vars(torch.optim).items() if isinstance(value, type) and issubclass(value, torch.optim.Optimizer)]
    if name not in torchs and name not in OPTIMIZERS:
        known = [*OPTIMIZERS.names(), *torchs]
        guess = closest(name, known)
        raise ConfigError(f"unknown optimizer {name!r}; {f'did you mean {guess!r}?' if guess else f'known: {known}'}")
    named = [entry if isinstance(entry, tuple) else ("", entry) for entry in parameters]
    groups = parameter_groups(optimizer_config, [(key, parameter) for key, parameter in named if parameter.requires_grad])
    if not groups:
        raise ConfigError(f"optimizer {name!r} has nothing to train: every parameter is frozen")
    takes_names = name in OPTIMIZERS and OPTIMIZERS.part(name).facts.get("takes_names", False)
    params: Any = [{**group, "params": [entry if takes_names else entry[1] for entry in group["params"]]} for group in groups]
    if len(params) == 1 and len(params[0]) == 1:
        params = params[0]["params"]
    if "betas" in config:
        config["betas"] = tuple(config["betas"])
    try:
        made = OPTIMIZERS.build(name, config, params=params) if name in OPTIMIZERS else getattr(torch.optim, name)(params, **config)
    except (TypeError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"optimizer {name!r}: {error}") from error
    for group in made.param_groups:
        group["lr"] *= group.pop("lr_scale", 1.0)
    return made


def parameter_groups(optimizer_config: Mapping[str, Any], named: Sequence[Named]) -> list[dict[str, Any]]:
    """Parameters by what is different for them: ``{"params": [(name, parameter)], **options}``. The first group that fits counts.

    Raises:
        ConfigError: If a group of the config fits nothing.
    """
    rules = [ParameterGroup.model_validate(rule) for rule in optimizer_config.get("parameter_groups") or ()]
    no_decay = optimizer_config.get("no_decay_on_vectors", False)
    found: dict[tuple[int, bool], list[Named]] = {}
    matched: set[int] = set()
    for name, parameter in named:
        rule = next((index for index, rule in enumerate(rules) if matches(name, rule.patterns)), len(rules))
        matched.add(rule)
        if rule < len(rules) and rules[rule].frozen:
            parameter.requires_grad_(False)
            continue
        found.setdefault((rule, no_decay and is_vector(parameter)), []).append((name, parameter))
    for index, rule in enumerate(rules):
        if index not in matched and not rule.frozen:  # what is frozen may have been left out before
            raise ConfigError(f"parameter_groups[{index}].match: {rule.match!r} fits no trained parameter that no group before it has")
    groups: list[dict[str, Any]] = []
    for (index, is_undecayed), members in found.items():
        options = rules[index].model_dump(include={"lr", "lr_scale", "weight_decay"}, exclude_none=True) if index < len(rules) else {}
        groups.append({**options, **({"weight_decay": 0.0} if is_undecayed else {}), "params": members})
    return groups
