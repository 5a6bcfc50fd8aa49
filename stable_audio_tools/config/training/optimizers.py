"""``optimizer_configs``: how parameters are updated."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from stable_audio_tools.config.base import NonNegativeFloat, NonNegativeInt, Strict, part_mistakes
from stable_audio_tools.config.optimizers import SCHEDULES, TORCH_OPTIMIZERS, torch_mistakes
from stable_audio_tools.families import OPTIMIZERS, SCHEDULERS
from stable_audio_tools.registry import Mistake


class ParameterGroup(Strict):
    """What is different for some parameters, by their names in the model: a part's name, or patterns with ``*``."""

    match: str | list[str]
    lr: NonNegativeFloat | None = None
    lr_scale: NonNegativeFloat | None = None  # times the learning rate of the others
    weight_decay: NonNegativeFloat | None = None
    frozen: bool = False

    @property
    def patterns(self) -> list[str]:
        """Of names; a parameter belongs to the first group that has one that fits."""
        return [self.match] if isinstance(self.match, str) else self.match

    def conflicts(self) -> Iterator[Mistake]:
        if not self.patterns:
            yield Mistake(("match",), "is empty: name a part of the model, or patterns with '*'")
        others = [key for key in ("lr", "lr_scale", "weight_decay") if getattr(self, key) is not None]
        if self.frozen and others:
            yield Mistake((others[0],), "warning: has no effect on frozen parameters", "warning")
        elif not self.frozen and not others:
            yield Mistake((), "needs lr, lr_scale, weight_decay or frozen: nothing is different for these parameters", "missing")
        if self.lr is not None and self.lr_scale is not None:
            yield Mistake(("lr_scale",), "is given beside lr: give one of them", "conflict")


class OptimizerBlock(Strict):
    """An optimizer: one of ``sat list optimizers``, or one of ``torch.optim`` by class name."""

    type: str
    config: dict[str, Any] = {}
    parameter_groups: list[ParameterGroup] = []
    no_decay_on_vectors: bool = False  # no weight decay on norms, biases and other parameters that are no matrices

    def conflicts(self) -> Iterator[Mistake]:
        if self.type in OPTIMIZERS:
            yield from part_mistakes(OPTIMIZERS, self.type, ("type",), self.config, ("config",))
        else:
            yield from torch_mistakes("optimizer", self.type, self.config, TORCH_OPTIMIZERS, OPTIMIZERS.names())


class SchedulerBlock(Strict):
    """``InverseLR``, or a scheduler of ``torch.optim.lr_scheduler`` by class name; stepped once per optimizer step."""

    type: str
    config: dict[str, Any] = {}
    warmup_steps: NonNegativeInt = 0  # the learning rate grows over so many steps, before the schedule begins

    def conflicts(self) -> Iterator[Mistake]:
        if self.type in SCHEDULERS:
            yield from part_mistakes(SCHEDULERS, self.type, ("type",), self.config, ("config",))
        else:
            yield from torch_mistakes("scheduler", self.type, self.config, SCHEDULES, SCHEDULERS.names())


class OptimizerConfig(Strict):
    """How one group of parameters is updated."""

    optimizer: OptimizerBlock
    scheduler: SchedulerBlock | None = None
