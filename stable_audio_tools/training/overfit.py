"""Whether a set-up can learn at all: one batch, always with the same noise, until the loss has fallen."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import repeat
from typing import Any

import pytorch_lightning as pl

from stable_audio_tools.training.options import TrainOptions
from stable_audio_tools.training.randomness import seed_streams
from stable_audio_tools.training.run import fit, set_up
from stable_audio_tools.training.trainer import bare_trainer

STEPS = 500
ENOUGH = 0.5  # of the first loss: what a set-up that learns is well below
WINDOW = 5  # losses at the end that are averaged


@dataclass(frozen=True)
class Verdict:
    """What became of the loss of one batch.

    Attributes:
        first: The loss before the first step.
        last: The mean of the last losses.
        steps: Optimizer steps made.
    """

    first: float
    last: float
    steps: int

    @property
    def can_learn(self) -> bool:
        """Whether the loss fell to half of what it was."""
        return math.isfinite(self.last) and self.last <= ENOUGH * self.first

    def __str__(self) -> str:
        fell = f"the loss of one batch went from {self.first:.4g} to {self.last:.4g} in {self.steps} steps"
        if self.can_learn:
            return f"this set-up can learn: {fell}"
        hint = (
            "the loss falls, but slowly: try a higher learning rate, a shorter warm-up, or more --max-steps"
            if self.last < 0.95 * self.first
            else "look at the learning rate (too low, too high, a warm-up longer than this test), at what is frozen, and at the data"
        )
        return f"this set-up does NOT learn: {fell}, and should at least be halved; {hint}"


class _SameStep(pl.Callback):
    """Gives every step the random numbers of the first, and stops when the loss has fallen far enough."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.losses: list[float] = []

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        seed_streams(self.seed + trainer.global_rank)
        pl_module.renew_streams()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        loss = trainer.callback_metrics.get("train/loss")  # with an adversary, that of the model
        if loss is not None:
            self.losses.append(float(loss))
        trainer.should_stop = self.verdict(trainer.global_step).can_learn and len(self.losses) > WINDOW

    def verdict(self, steps: int) -> Verdict:
        if not self.losses:
            return Verdict(math.inf, math.inf, steps)
        recent = self.losses[-WINDOW:]
        return Verdict(self.losses[0], sum(recent) / len(recent), steps)


@dataclass(frozen=True)
class _Again:
    """A loader of one batch."""

    batch: Any
    times: int

    def __iter__(self) -> Iterator[Any]:
        return repeat(self.batch, self.times)

    def __len__(self) -> int:
        return self.times


def overfit(options: TrainOptions) -> Verdict:
    """Train on the first batch alone, with the same noise and times in every step, and say whether its loss has been halved.

    Writes nothing. Stops as soon as it knows, at the latest after ``max_steps``, or 500 steps.

    Raises:
        StableAudioError: As `train` does.
    """
    setup = set_up(replace(options, ckpt_path=None, recover=False, val_dataset_config=None, save_best=0))
    steps = options.max_steps if options.max_steps > 0 else STEPS
    watch = _SameStep(options.seed)
    batch = next(iter(setup.loader))
    trainer = bare_trainer(
        setup.options, max_steps=steps, max_epochs=-1, log_every_n_steps=1, num_sanity_val_steps=0, use_distributed_sampler=False,
        callbacks=[watch],
    )  # fmt: skip
    fit(trainer, setup, _Again(batch, 2 * steps))  # an adversary has every other step, and skipped batches make none
    return watch.verdict(trainer.global_step)
