"""What a run will take, told before its first step: parameters, memory, disk, and, after 20 steps, time."""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from torch import Tensor

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.training.base import TrainingWrapper
from stable_audio_tools.training.memory import Activations, available_memory, memory_of, num_bytes_of, size
from stable_audio_tools.training.options import TrainOptions
from stable_audio_tools.training.randomness import isolated_randomness

logger = logging.getLogger(__name__)
SMALLER = "a smaller --batch-size with more --accum-batches, --gradient-checkpointing, the optimizer AdamW8bit, or --precision bf16-mixed"
TIMED_STEPS = 20
FEWER = "keep fewer with --save-top-k, save less often with --checkpoint-every, or save elsewhere with --save-dir"


def duration(seconds: float) -> str:
    """Seconds as people read them.

    >>> duration(42), duration(5400), duration(200_000)
    ('42 s', '90 min', '2 d 8 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    hours = round(seconds / 3600)
    return f"{hours} h" if hours < 48 else f"{hours // 24} d {hours % 24} h"


# ---- disk --------------------------------------------------------------------------------------------------------------------------------


def checkpoint_bytes(wrapper: TrainingWrapper, state_dict: Mapping[str, Tensor] | None = None) -> int:
    """About how large a checkpoint will be; ``state_dict`` if it does not hold all of the wrapper's."""
    made: Any = wrapper.configure_optimizers()
    made = made[0] if isinstance(made, tuple) else made
    states = memory_of(wrapper, made if isinstance(made, list) else [made]).optimizer
    return num_bytes_of((wrapper.state_dict() if state_dict is None else state_dict).values()) + states


def disk_line(options: TrainOptions, each: int, folder: Path, start: int = 0) -> str:
    """How much disk checkpoints will take.

    Args:
        options: Of the run.
        each: Bytes of a checkpoint.
        folder: Where they go.
        start: Step that the run begins at.

    Raises:
        ConfigError: If they do not fit, unless forced.
    """
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    kept = options.save_top_k if options.save_top_k > 0 else None
    if options.max_steps > 0:
        written = max(1, math.ceil((options.max_steps - start) / options.checkpoint_every))
        kept = written if kept is None else min(kept, written)
    total = each * ((kept or 1) + options.save_best)
    count = f"{kept + options.save_best} of them, {size(total)}" if kept is not None else "all of them are kept"
    text = f"checkpoints: {size(each)} each; {count}; {size(free)} free in {there}"
    needed = total + each  # one more while a new one takes the place of an old one
    if needed > free and not options.force:
        raise ConfigError(f"{text}: they need {size(needed)}; {FEWER}; or --force")
    return text


def steps_line(options: TrainOptions, num_batches: int, num_processes: int = 1, *, drops_rest: bool = False) -> str:
    """How many optimizer steps a pass through the data makes.

    Args:
        options: Of the run.
        num_batches: Of the data.
        num_processes: Processes that share them.
        drops_rest: Whether batches that do not go round are left out.
    """
    each = num_batches // num_processes if drops_rest else math.ceil(num_batches / num_processes)
    steps = max(1, math.ceil(each / options.accum_batches))  # the last ones of a pass make a step, too
    together = f", {options.accum_batches * num_processes} for each" if options.accum_batches * num_processes > 1 else ""
    passes = f"; {options.max_steps} steps are {options.max_steps / steps:.3g} passes" if options.max_steps > 0 else ""
    return f"steps per pass through the data: {steps} ({num_batches} batches of {options.batch_size}{together}){passes}"


# ---- while the run begins ---------------------------------------------------------------------------------------------------------------


class Preflight(pl.Callback):
    """Measures forward passes, and says before the first step what memory the run takes; after 20 steps, what time is left.

    Args:
        options: Of the run.
        report: File that the lines are added to.
    """

    def __init__(self, options: TrainOptions, report: Path) -> None:
        super().__init__()
        self.options, self.report = options, report
        self._counting: Activations | None = None
        self._measured = 0
        self._is_told = False
        self._begun: tuple[int, float] | None = None
        self._is_timed = False

    def say(self, line: str) -> None:
        """To the log and to the report."""
        logger.info(line)
        self.report.parent.mkdir(parents=True, exist_ok=True)
        with self.report.open("a", encoding="utf-8") as stream:
            stream.write(line + "\n")

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        """Count what the first forward pass has; the time is taken from the second batch on."""
        if not self._is_told and not self.options.compile:
            if isinstance(pl_module, TrainingWrapper) and not self._is_spread:
                self._rehearse(trainer, pl_module, batch)
            self._counting = Activations().__enter__()
        elif self._begun is None:
            self._begun = trainer.global_step, time.monotonic()

    def _rehearse(self, trainer: pl.Trainer, wrapper: TrainingWrapper, batch: Any) -> None:
        """Measure what comes later."""
        with isolated_randomness(self.options.seed), trainer.precision_plugin.train_step_context():
            for step in wrapper.rehearsals(batch):
                with Activations() as counted:
                    step()
                self._measured = max(self._measured, counted.most)

    @property
    def _is_spread(self) -> bool:
        """Whether weights are spread over several devices."""
        return self.options.strategy.startswith(("fsdp", "deepspeed"))

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        """Say what memory the run takes, before anything is updated.

        Raises:
            ConfigError: If there is not enough, unless forced.
        """
        self._stop_counting()
        if self._is_told or not isinstance(pl_module, TrainingWrapper):
            return
        self._is_told = True
        memory = replace(memory_of(pl_module, trainer.optimizers), activations=self._measured)
        there = available_memory(pl_module.device)
        if there is None or self._is_spread:
            line = f"memory, {'spread over all devices' if self._is_spread else 'per device'}: {memory}"
        else:
            line = f"memory: {memory} of {size(there[0])} that {there[1]} has for this run"
        if trainer.is_global_zero:
            self.say(line)
        is_too_much = there is not None and not self._is_spread and memory.total > there[0] and not self.options.force
        if trainer.world_size > 1:
            is_too_much = trainer.strategy.reduce_boolean_decision(is_too_much, all=False)
        if is_too_much:
            raise ConfigError(f"{line}: it will not fit; try {SMALLER}; or --force")

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Say how long the run will take, once."""
        self._stop_counting()
        if self._begun is None or self._is_timed or trainer.global_step - self._begun[0] < TIMED_STEPS or not trainer.is_global_zero:
            return
        self._is_timed = True
        each = (time.monotonic() - self._begun[1]) / (trainer.global_step - self._begun[0])
        left = trainer.max_steps - trainer.global_step
        rest = f"; {left} steps are left: about {duration(left * each)}" if left > 0 else ""
        batches = trainer.num_training_batches
        if trainer.max_steps < 0 and batches != float("inf"):
            rest = f"; a pass takes about {duration(math.ceil(batches / self.options.accum_batches) * each)}"
        self.say(f"{each:.3g} s per step{rest}")

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leave nothing behind."""
        self._stop_counting()

    def _stop_counting(self) -> None:
        if self._counting is not None:
            self._counting.__exit__(None, None, None)
            self._measured, self._counting = max(self._measured, self._counting.most), None
