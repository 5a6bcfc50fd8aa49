"""The contract of demos, and what keeps them from disturbing the run they watch."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from stable_audio_tools.audio import peak_normalize, save
from stable_audio_tools.audio.plot import spectrogram_image
from stable_audio_tools.families import DEMOS
from stable_audio_tools.training.base import TrainingWrapper
from stable_audio_tools.training.log_sinks import LogSink
from stable_audio_tools.training.optims.schedule_free import averaged_iterates
from stable_audio_tools.training.randomness import isolated_randomness

logger = logging.getLogger(__name__)


class DemoCallback(pl.Callback):
    """Runs `demo` before the first step and every so many steps, on the first process, with averaged weights and fixed randomness.

    A demo that fails is reported and counted; it never ends the run.

    Args:
        demo_every: Optimizer steps between demos.
        folder: Where files go; None is ``demos`` in the run's folder.
    """

    seed = 42

    def __init__(self, demo_every: int, folder: str | Path | None = None) -> None:
        super().__init__()
        self.demo_every = demo_every
        self.folder = Path(folder) if folder is not None else None
        self.num_failed = 0
        self._first_failure = ""
        self._last_step = -1

    def demo(self, wrapper: TrainingWrapper, batch: Any, step: int) -> None:
        """Make the demo. ``batch`` is the current training batch, or None before the first."""
        raise NotImplementedError

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        """The demo of step 0."""
        if trainer.global_step == 0:
            self._run(trainer, pl_module, batch)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Every ``demo_every`` optimizer steps."""
        if trainer.global_step % self.demo_every == 0:
            self._run(trainer, pl_module, batch)

    def _run(self, trainer: pl.Trainer, wrapper: pl.LightningModule, batch: Any) -> None:
        step = trainer.global_step
        if step == self._last_step or not trainer.is_global_zero:
            return
        assert isinstance(wrapper, TrainingWrapper)
        self._last_step = step
        self.sink = LogSink(trainer.loggers)
        self._folder = self.folder or Path(trainer.default_root_dir) / "demos"
        started = time.perf_counter()
        try:
            with isolated_randomness(self.seed), torch.no_grad(), averaged_iterates(trainer.optimizers):
                self.demo(wrapper, batch, step)
            logger.info("demo of step %d took %.1f s: %s", step, time.perf_counter() - started, self._folder)
        except Exception as error:  # a demo must never end a run
            self.num_failed += 1
            self._first_failure = self._first_failure or f"step {step}: {' '.join(str(error).split()) or type(error).__name__}"
            logger.exception("the demo of step %d failed (%d failed so far); training goes on", step, self.num_failed)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say again that demos failed: in a long run nobody has seen it."""
        if self.num_failed:
            logger.warning("%d demos failed in this run; the first one: %s", self.num_failed, self._first_failure)

    def emit(self, name: str, audio: Tensor, sample_rate: int, step: int) -> Path:
        """Write and log a clip and its picture.

        Args:
            name: What it is; part of the file names.
            audio: (C, T)
            sample_rate: In Hz.
            step: For the file names and loggers.

        Returns:
            The WAV file.
        """
        path = self._folder / f"{name}_{step:08d}.wav"
        audio = audio.float().cpu()
        # Only what would clip is turned down: a normalised demo would hide wrong levels.
        save(
            path, peak_normalize(audio) if float(audio.abs().max()) > 1 else audio, sample_rate, metadata={"step": str(step), "name": name}
        )
        picture = spectrogram_image(audio, sample_rate, self._folder / f"{name}_{step:08d}.png", title=f"{name}, step {step}")
        self.sink.log_audio(name, path, audio, sample_rate, step)
        self.sink.log_image(f"{name}_melspec", picture, step)
        return path


__all__ = ["DEMOS", "DemoCallback"]
