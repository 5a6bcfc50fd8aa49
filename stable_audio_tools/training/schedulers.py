"""Learning-rate schedules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from stable_audio_tools.config.base import BelowOne, NonNegativeFloat, PositiveFloat
from stable_audio_tools.errors import ConfigError
from stable_audio_tools.families import SCHEDULERS
from stable_audio_tools.registry import closest
from stable_audio_tools.training.optimizers import create_optimizer_from_config


@SCHEDULERS.register("InverseLR")
class InverseLR(LRScheduler):
    """``(1 - warmup ** (n + 1)) * max(final_lr, base * (1 + n / inv_gamma) ** -power)`` at step n, from 0.

    Args:
        optimizer: Whose learning rate to set.
        inv_gamma: Steps after which the decay sets in.
        power: How fast it decays; 1 halves it at ``inv_gamma`` steps.
        warmup: Exponential warm-up factor in [0, 1); 0 is none.
        final_lr: Smallest learning rate.
        last_epoch: Step to go on from.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        inv_gamma: PositiveFloat = 1.0,
        power: float = 1.0,
        warmup: BelowOne = 0.0,
        final_lr: NonNegativeFloat = 0.0,
        last_epoch: int = -1,
    ) -> None:
        if not 0.0 <= warmup < 1.0:
            raise ConfigError(f"scheduler 'InverseLR': warmup must be in [0, 1), got {warmup}")
        self.inv_gamma, self.power, self.warmup, self.final_lr = inv_gamma, power, warmup, final_lr
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """Learning rate of each parameter group at the current step."""
        step = self.last_epoch
        warmup = 1 - self.warmup ** (step + 1)
        decay = (1 + step / self.inv_gamma) ** -self.power
        return [warmup * max(self.final_lr, base * decay) for base in self.base_lrs]


def create_scheduler_from_config(scheduler_config: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> LRScheduler:
    """Make a scheduler.

    Args:
        scheduler_config: ``{"type": ..., "config": {...}}`` with ``InverseLR`` or the name of one of torch's schedulers. With
            ``warmup_steps``, the learning rate first grows in a straight line over so many steps; the schedule's step 0 comes after that.
        optimizer: Whose learning rate it sets.

    Raises:
        ConfigError: If there is no such scheduler or it refuses its config.
    """
    warmup_steps = scheduler_config.get("warmup_steps", 0)
    if not warmup_steps:
        return _without_warmup(scheduler_config, optimizer)
    growth = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=1 / warmup_steps, total_iters=max(warmup_steps - 1, 1))
    schedule = _without_warmup(scheduler_config, optimizer)
    return torch.optim.lr_scheduler.SequentialLR(optimizer, [growth, schedule], milestones=[warmup_steps])


def optimizer_and_schedule(config: Mapping[str, Any], model: nn.Module) -> Any:
    """What Lightning's ``configure_optimizers`` returns for a model that one optimizer updates.

    Args:
        config: ``{"optimizer": {...}, "scheduler": {...}}``; a schedule is optional, and goes on with every step.
        model: Its parameters that are not frozen are updated.
    """
    optimizer = create_optimizer_from_config(config["optimizer"], model.named_parameters())
    if config.get("scheduler") is None:
        return optimizer
    return [optimizer], [{"scheduler": create_scheduler_from_config(config["scheduler"], optimizer), "interval": "step"}]


def _without_warmup(scheduler_config: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> LRScheduler:
    name, config = scheduler_config["type"], scheduler_config.get("config", {})
    if name in SCHEDULERS:
        return SCHEDULERS.build(name, config, optimizer=optimizer)
    known = [key for key, value in vars(torch.optim.lr_scheduler).items() if _is_scheduler(value)]
    found = getattr(torch.optim.lr_scheduler, name) if name in known else None
    if found is None:
        known = [*SCHEDULERS.names(), *known]
        guess = closest(name, known)
        raise ConfigError(f"unknown scheduler {name!r}; {f'did you mean {guess!r}?' if guess else f'known: {known}'}")
    try:
        return found(optimizer, **config)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"scheduler {name!r}: {error}") from error


def _is_scheduler(value: Any) -> bool:
    bases = (LRScheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)  # the second one wants a metric, which training does not give it
    return isinstance(value, type) and issubclass(value, LRScheduler) and value not in bases and not value.__name__.startswith("_")
