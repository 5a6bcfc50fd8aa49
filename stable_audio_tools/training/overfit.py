"""Whether a set-up can learn at all: one batch, always with the same noise, until the model reproduces it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import repeat
from typing import Any

import pytorch_lightning as pl
import torch

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.training.base import TrainingWrapper
from stable_audio_tools.training.options import TrainOptions
from stable_audio_tools.training.randomness import isolated_randomness, seed_streams
from stable_audio_tools.training.run import fit, set_up
from stable_audio_tools.training.strategies import callbacks_of
from stable_audio_tools.training.trainer import bare_trainer, steps_of

STEPS = 500
ENOUGH = 0.5  # an error, and a share of the first one: what a set-up that learns comes below
BETTER = 0.8  # share of the first error, for a model that comes below ENOUGH from the beginning
WINDOW = 5  # losses at the end that are averaged
LOOK_EVERY = 10  # steps


@dataclass(frozen=True)
class Verdict:
    """How near a model came to one batch.

    Attributes:
        first: The error before the first step: 0 is the batch itself, 1 what knows no more of it than its level.
        last: The last error.
        steps: Optimizer steps made.
        losses: The first loss, and the mean of the last ones.
        what: What was measured.
    """

    first: float
    last: float
    steps: int
    losses: tuple[float, float]
    what: str

    @property
    def goal(self) -> float:
        """The error that is to be reached."""
        return min(ENOUGH, (ENOUGH if self.first > ENOUGH else BETTER) * self.first)

    @property
    def can_learn(self) -> bool:
        """Whether it is."""
        return math.isfinite(self.last) and self.last < self.goal

    def __str__(self) -> str:
        fell = (
            f"the error of {self.what} went from {self.first:.3g} to {self.last:.3g} in {self.steps} steps on one batch (0 is the batch "
            f"itself, 1 knows no more than its level), and the loss from {self.losses[0]:.4g} to {self.losses[1]:.4g}"
        )
        if self.can_learn:
            return f"this set-up can learn: {fell}"
        if not math.isfinite(self.first):
            return f"this set-up does NOT learn: {fell}; nothing of this batch counts: is it silent, or is all of it padding?"
        return f"this set-up does NOT learn: {fell}; the error should be below {self.goal:.3g}: {self._hint()}"

    def _hint(self) -> str:
        if self.last < 0.95 * self.first and self.losses[1] < self.losses[0]:
            return "it falls, but slowly: try a higher learning rate, a shorter warm-up, or more --max-steps"
        if self.losses[1] < ENOUGH * self.losses[0]:
            return "the loss falls, but not for this: look at the weights of its terms, at a teacher, and at masks of padding"
        return "look at the learning rate (too low, too high, a warm-up longer than this test), at what is frozen, and at the data"


class _SameStep(pl.Callback):
    """Gives every step the random numbers of the first, and stops when the model reproduces the batch."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.losses: list[float] = []
        self.errors: list[float] = []
        self._last_step = -1

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if not self.errors:
            with self._as_in_a_step(trainer, pl_module):
                pl_module.begin_overfit(batch)
            self._look(trainer, pl_module, batch)
        seed_streams(self.seed + trainer.global_rank)
        pl_module.renew_streams()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        loss = trainer.callback_metrics.get("train/loss")  # with an adversary, that of the model
        if loss is not None:
            self.losses.append(float(loss))
        step = trainer.global_step
        if step != self._last_step and (step % LOOK_EVERY == 0 or step == trainer.max_steps):
            self._look(trainer, pl_module, batch)
            can_learn = self.verdict(step, pl_module).can_learn
            trainer.should_stop = trainer.strategy.reduce_boolean_decision(can_learn, all=True)
        self._last_step = step

    @contextmanager
    def _as_in_a_step(self, trainer: pl.Trainer, wrapper: TrainingWrapper) -> Iterator[None]:
        """The random numbers of a step, but eval mode and no gradients."""
        wrapper.eval()
        try:
            with isolated_randomness(self.seed + trainer.global_rank), torch.no_grad(), trainer.precision_plugin.val_step_context():
                wrapper.renew_streams()
                yield
        finally:
            wrapper.train()

    def _look(self, trainer: pl.Trainer, wrapper: TrainingWrapper, batch: Any) -> None:
        with self._as_in_a_step(trainer, wrapper):
            self.errors.append(float(wrapper.reproduction_error(batch)))

    def verdict(self, steps: int, wrapper: TrainingWrapper) -> Verdict:
        recent = self.losses[-WINDOW:] or [math.inf]
        losses = (self.losses or [math.inf])[0], sum(recent) / len(recent)
        errors = self.errors or [math.inf]
        return Verdict(errors[0], errors[-1], steps, losses, wrapper.reproduced)


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
    """Train on the first batch alone, with the same noise and times in every step, and say whether the model comes to reproduce it.

    Writes nothing. Stops as soon as it knows, at the latest after ``max_steps``, or 500 steps.

    Raises:
        StableAudioError: As `train` does; also if the wrapper does not say how near a model is to a batch.
    """
    # One batch needs no processes to load it, which would outlive an error, since its traceback keeps the loader.
    setup = set_up(replace(options, ckpt_path=None, recover=False, val_dataset_config=None, save_best=0, num_workers=0))
    wrapper = setup.wrapper
    wrapper.repeats_batch = True
    if type(wrapper).reproduction_error is TrainingWrapper.reproduction_error:
        raise ConfigError(
            f"--overfit: {type(wrapper).__name__} does not say how near its model is to a batch; give it a method reproduction_error(), or "
            "train with --max-steps 500 and look at the loss"
        )
    steps = options.max_steps if options.max_steps > 0 else STEPS
    watch = _SameStep(options.seed)
    batch = next(iter(setup.loader))
    trainer = bare_trainer(
        setup.options, **steps_of(setup.options, wrapper), max_steps=steps, max_epochs=-1, log_every_n_steps=1, num_sanity_val_steps=0,
        use_distributed_sampler=False, callbacks=[watch, *callbacks_of(setup.options.strategy)],
    )  # fmt: skip
    at_most = 2 * steps * setup.options.accum_batches  # an adversary has every other step, and skipped batches make none
    fit(trainer, setup, _Again(batch, at_most))
    return watch.verdict(trainer.global_step, wrapper)
