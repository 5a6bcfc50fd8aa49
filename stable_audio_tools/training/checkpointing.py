"""When a run is saved, and how: every N steps, at the end, and when it is asked to stop. Never half a file."""

from __future__ import annotations

import logging
import re
import shutil
import signal
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from stable_audio_tools.checkpoint import atomic_path
from stable_audio_tools.data.loader import ResumableLoader

logger = logging.getLogger(__name__)
NAME = re.compile(r"epoch=(\d+)-step=(\d+)\.ckpt$")


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes to a temporary file that takes the checkpoint's place only when it is complete and on disk."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint."""
        with atomic_path(path) as temporary:
            torch.save(checkpoint, temporary)

    def load_checkpoint(self, path: str | Path, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint; only tensors and plain data, since anything else could run code."""
        return torch.load(path, map_location=map_location or "cpu", weights_only=weights_only is not False)


class CheckpointCallback(pl.Callback):
    """Saves ``epoch=E-step=S.ckpt`` every N optimizer steps, at the end, and on SIGTERM or Ctrl-C, after the current step.

    Args:
        folder: Where to.
        every: Optimizer steps between checkpoints.
        keep_last: How many to keep; -1 keeps all.
        model_config: Goes into every checkpoint as ``model_config``.
    """

    def __init__(self, folder: Path, every: int, *, keep_last: int = -1, model_config: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.folder = folder
        self.every = every
        self.keep_last = keep_last
        self.model_config = dict(model_config or {})
        self.last_path: Path | None = None
        self.stop_signal: int | None = None
        self._last_step = -1
        self._is_stopping = False
        self._limit_val_batches: Any = None
        self._previous_handlers: dict[int, Any] = {}

    # ---- what all processes share, and what a resumed run may change ---------------------------------------------------------------

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """All processes of a run have the folder of the first one: each has made a name of the time when it began."""
        self.folder = trainer.strategy.broadcast(self.folder)

    @staticmethod
    def _count_batches_anew(trainer: pl.Trainer) -> None:
        """Lightning counts the batches of a pass, but the loader goes on after the same items if batches have another size now."""
        loader = trainer.train_dataloader
        if isinstance(loader, ResumableLoader) and loader.resumed_at is not None:
            current: Any = trainer.fit_loop.epoch_loop.batch_progress.current
            current.ready = current.started = current.processed = loader.resumed_at
            current.completed = loader.resumed_at - 1  # a checkpoint is written before its batch is counted as completed

    # ---- signals ---------------------------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take over the signals that ask a run to stop."""
        self._count_batches_anew(trainer)
        self._last_step = trainer.global_step
        self._is_stopping = False
        if trainer.is_global_zero:
            for half in self.folder.glob(".epoch=*.ckpt.*.tmp"):  # of a run that was killed while it wrote
                half.unlink(missing_ok=True)
        self._limit_val_batches = trainer.limit_val_batches
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous_handlers[number] = signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: Any) -> None:
        self.stop_signal = number
        # A second one is not waited for. What handled SIGTERM before is Lightning's own handler, which would only take note of it.
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else self._previous_handlers[number])
        with suppress(RuntimeError):  # the signal came while the main program was writing to the same stream
            logger.warning("%s: saving a checkpoint after this step, then stopping", signal.Signals(number).name)

    def _give_back(self, trainer: pl.Trainer) -> None:
        # Before Lightning puts back what it found itself, so not in teardown(), which comes after that: its own handler, which swallows
        # SIGTERM, would stay for good.
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)
        self._previous_handlers.clear()
        trainer.limit_val_batches = self._limit_val_batches

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Give the signals back."""
        self._give_back(trainer)

    # ---- saving ----------------------------------------------------------------------------------------------------------------

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Save if it is time to, or if the run is asked to stop."""
        self._hear_from_others(trainer)
        self._is_stopping |= trainer.should_stop or self.stop_signal is not None
        per_step = max(trainer.accumulate_grad_batches, getattr(pl_module, "accum_batches", 1))  # of Lightning, or of the wrapper itself
        is_step = trainer.is_last_batch or (batch_idx + 1) % per_step == 0
        trainer.should_stop = self._is_stopping and is_step  # half of a step's gradients would be lost: the step is finished first
        if self.stop_signal is not None:
            trainer.limit_val_batches = 0  # whoever asked may not wait that long
        # Here rather than when training has ended: by then the loops have moved on to the next pass.
        if trainer.should_stop or (is_step and (trainer.global_step % self.every == 0 or trainer.global_step == trainer.max_steps)):
            self.save(trainer)

    def _hear_from_others(self, trainer: pl.Trainer) -> None:
        """All processes stop after the same step, even if the signal reached one of them, or reached them in different steps."""
        if trainer.world_size > 1 and trainer.strategy.reduce_boolean_decision(self.stop_signal is not None, all=False):
            self.stop_signal = self.stop_signal or signal.SIGTERM

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save where the run ended, and give the signals back."""
        self.save(trainer)
        self._give_back(trainer)

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the model's config."""
        checkpoint["model_config"] = self.model_config

    def save(self, trainer: pl.Trainer) -> None:
        """Save now, unless this step is saved already."""
        if trainer.global_step == self._last_step:
            return
        self._last_step = trainer.global_step
        path = self.folder / f"epoch={trainer.current_epoch}-step={trainer.global_step}.ckpt"
        trainer.save_checkpoint(path)
        self.last_path = path
        if trainer.is_global_zero and self.keep_last > 0:
            # By age rather than by step: a run that was resumed from an earlier checkpoint must not lose what it has just written.
            by_age = sorted(find_checkpoints(self.folder), key=lambda path: path.stat().st_mtime_ns)
            for old in by_age[: -self.keep_last]:
                if old.is_dir():  # what sharded strategies write
                    shutil.rmtree(old)
                else:
                    old.unlink(missing_ok=True)


def find_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a run, oldest step first."""
    found = [(int(match.group(2)), path) for path in folder.rglob("*.ckpt") if (match := NAME.search(path.name))]
    return [path for _, path in sorted(found)]
