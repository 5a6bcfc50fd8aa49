"""Parameters by name: which are trained, and how patterns choose them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from stable_audio_tools.errors import ConfigError

WHOLE = "all"
ALIASES = {"diffusion": ("model", "diffusion")}  # what people call a part: where models keep it


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether a parameter's name fits one of the patterns: a part's name stands for all below it, and ``*`` for anything.

    >>> matches("model.layers.0.weight", ["model.layers"]), matches("model.layers.0.weight", ["*.bias"])
    (True, False)
    """
    return any(name == pattern or name.startswith(f"{pattern}.") or fnmatchcase(name, pattern) for pattern in patterns)


def is_vector(parameter: Tensor) -> bool:
    """Whether at most one axis is longer than 1, as with norms, biases and the magnitudes of weight-normalised layers."""
    return sum(size > 1 for size in parameter.shape) < 2


def freeze(model: nn.Module, training: Any) -> None:
    """Let only those parameters be trained that ``training.train`` names, and no ``frozen`` group of an optimizer does.

    What the model froze itself stays so.

    Args:
        model: The model, not its training wrapper.
        training: The ``training`` section of its config.

    Raises:
        ConfigError: If a pattern fits no parameter, or nothing is left to train.
    """
    names = [name for name, _ in model.named_parameters()]
    wanted = getattr(training, "train", WHOLE)
    chosen = [wanted] if isinstance(wanted, str) else list(wanted)
    trained = [alternative for pattern in chosen for alternative in _meant_by(pattern, names, model, "training.train")]
    frozen = [
        alternative
        for location, pattern in _frozen_groups(training)
        for alternative in _meant_by(pattern, names, model, location)
    ]  # fmt: skip
    for name, parameter in model.named_parameters():
        if matches(name, frozen) or not (WHOLE in trained or matches(name, trained)):
            parameter.requires_grad_(False)
    if (trained != [WHOLE] or frozen) and not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError(f"training.train: {wanted!r} leaves nothing to train: the model itself freezes all of it; see enable_grad")


def frozen_parts(model: nn.Module) -> Iterator[nn.Module]:
    """The largest parts all of whose parameters are frozen; parts without parameters do not count."""
    for child in model.children():
        parameters = list(child.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            yield child
        elif parameters:
            yield from frozen_parts(child)


def _meant_by(pattern: str, names: Sequence[str], model: nn.Module, where: str) -> list[str]:
    """The patterns that a name in a config stands for."""
    if pattern == WHOLE:
        return [WHOLE]
    for candidate in (*ALIASES.get(pattern, ()), pattern):
        if any(matches(name, [candidate]) for name in names):
            return [candidate]
    parts = [name for name, part in model.named_children() if any(True for _ in part.parameters())]
    raise ConfigError(f"{where}: {pattern!r} fits no parameter of the model; its parts are {', '.join(parts)}; '*' stands for anything")


def _frozen_groups(training: Any) -> Iterator[tuple[str, str]]:
    """(where, pattern) of every frozen group of the optimizers that update the model."""
    configs: Any = getattr(training, "optimizer_configs", None)
    for key in [] if configs is None else [name for name in vars(configs) if name != "discriminator"]:
        config: Any = getattr(configs, key)
        for index, group in enumerate(config.optimizer.parameter_groups if config is not None else []):
            if group.frozen:
                for pattern in group.patterns:
                    yield f"training.optimizer_configs.{key}.optimizer.parameter_groups[{index}].match", pattern
