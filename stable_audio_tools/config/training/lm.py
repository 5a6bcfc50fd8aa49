"""``training`` of a language model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from stable_audio_tools.config.base import NonNegativeFloat, PositiveInt, Probability, Strict
from stable_audio_tools.config.training.adapters import WithAdapter
from stable_audio_tools.config.training.base import TrainingConfig
from stable_audio_tools.config.training.optimizers import OptimizerConfig
from stable_audio_tools.registry import Mistake


class LMDemo(Strict):
    """What to generate while training, and how often."""

    demo_every: PositiveInt = 2000
    demo_cfg_scales: list[float] = [1.0]
    demo_cond: list[dict[str, Any]] | None = None
    num_demos: PositiveInt | None = None

    def conflicts(self) -> Iterator[Mistake]:
        if self.demo_cond and self.num_demos is not None and len(self.demo_cond) != self.num_demos:
            yield Mistake(("num_demos",), f"is {self.num_demos}, but demo_cond has {len(self.demo_cond)} entries", "conflict")


class LMOptimizers(Strict):
    """Optimizers by what they update."""

    lm: OptimizerConfig


class LMTraining(TrainingConfig, WithAdapter):
    """``training`` of a language model."""

    learning_rate: NonNegativeFloat | None = None
    optimizer_configs: LMOptimizers | None = None
    use_ema: bool = False
    pre_encoded: bool = False
    cfg_dropout_prob: Probability = 0.1
    demo: LMDemo | None = None

    def conflicts(self) -> Iterator[Mistake]:
        yield from super().conflicts()
        if self.optimizer_configs is None and self.learning_rate is None:
            yield Mistake((), "needs learning_rate or optimizer_configs", "missing")
