"""``optimizer_configs``: how parameters are updated."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from stable_audio_tools.config.base import Strict, part_mistakes
from stable_audio_tools.config.optimizers import OPTIMIZERS, SCHEDULES, torch_mistakes
from stable_audio_tools.families import SCHEDULERS
from stable_audio_tools.registry import Mistake


class OptimizerBlock(Strict):
    """An optimizer of ``torch.optim``, by class name."""

    type: str
    config: dict[str, Any] = {}

    def conflicts(self) -> Iterator[Mistake]:
        yield from torch_mistakes("optimizer", self.type, self.config, OPTIMIZERS)


class SchedulerBlock(Strict):
    """``InverseLR``, or a scheduler of ``torch.optim.lr_scheduler`` by class name; stepped once per optimizer step."""

    type: str
    config: dict[str, Any] = {}

    def conflicts(self) -> Iterator[Mistake]:
        if self.type in SCHEDULERS:
            yield from part_mistakes(SCHEDULERS, self.type, ("type",), self.config, ("config",))
        else:
            yield from torch_mistakes("scheduler", self.type, self.config, SCHEDULES, SCHEDULERS.names())


class OptimizerConfig(Strict):
    """How one group of parameters is updated."""

    optimizer: OptimizerBlock
    scheduler: SchedulerBlock | None = None
