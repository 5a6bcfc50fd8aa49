"""When a run is saved, and how: every N steps, at the end, and when it is asked to stop. Never half a file."""

from __future__ import annotations

import json
import logging
import math
import re
import shutil
import signal
import threading
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from stable_audio_tools.checkpoint import atomic_path
from stable_audio_tools.data.loader import ResumableLoader
from stable_audio_tools.errors import CheckpointError, ConfigError, TrainingError
from stable_audio_tools.training.base import TrainingWrapper
from stable_audio_tools.training.optims.schedule_free import averaged_iterates
from stable_audio_tools.training.safety import are_alike, first_broken

logger = logging.getLogger(__name__)
SCORES = "scores.json"
MONITORED = ("val/avg_loss", "val/loss", "val/mrstft_loss")  # the loss of validation, by kind of wrapper
NAME = re.compile(r"epoch=(\d+)-step=(\d+)\.ckpt$")


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes to a temporary file that takes the checkpoint's place only when it is complete and on disk.

    Args:
        adapted: What to give for a file that another program wrote: path -> content.
    """

    def __init__(self, adapted: Mapping[Path, Mapping[str, Any]] | None = None) -> None:
        super().__init__()
        self.adapted = dict(adapted or {})

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint."""
        with atomic_path(path) as temporary:
            torch.save(checkpoint, temporary)
            verify(temporary, path)

    def load_checkpoint(self, path: str | Path, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint; only tensors and plain data, since anything else could run code."""
        if Path(path) in self.adapted:
            return dict(self.adapted.pop(Path(path)))
        return torch.load(path, map_location=map_location or "cpu", weights_only=weights_only is not False)


def verify(file: Path, name: str | Path) -> None:
    """Read a file that torch has just written: every part of it must have the checksum that was written with it.

    Args:
        file: The file.
        name: What to call it.

    Raises:
        CheckpointError: If a part is damaged or missing.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, OSError) as error:
        damaged = str(error)
    if damaged is not None:
        raise CheckpointError(f"{name}: was written, but reads back damaged ({damaged}); is the disk full or failing?")


class CheckpointCallback(pl.Callback):
    """Saves ``epoch=E-step=S.ckpt`` every N optimizer steps, at the end, and on SIGTERM or Ctrl-C, after the current step.

    A run that ends in an error is saved too, if its weights are finite and all processes know of the error.

    Args:
        folder: Where to.
        every: Optimizer steps between checkpoints.
        keep_last: How many to keep; -1 keeps all.
        model_config: Goes into every checkpoint as ``model_config``.
        keep_best: How many of those with the best ``monitor`` to keep besides, in ``best`` beside the folder.
        monitor: A number that validation logs; ``auto`` is its loss.
        largest: Whether large is best.
    """

    def __init__(
        self,
        folder: Path,
        every: int,
        *,
        keep_last: int = -1,
        model_config: Mapping[str, Any] | None = None,
        keep_best: int = 0,
        monitor: str = "auto",
        largest: bool = False,
    ) -> None:
        super().__init__()
        self.keep_best, self.monitor, self.largest = keep_best, monitor, largest
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
        """Lightning counts the batches of a pass, but the loader may have done another number of them: see `ResumableLoader.resumed_at`."""
        loader = trainer.train_dataloader
        if isinstance(loader, ResumableLoader) and loader.resumed_at is not None:
            loop = trainer.fit_loop.epoch_loop
            current: Any = loop.batch_progress.current
            current.ready = current.started = current.processed = loader.resumed_at
            # A checkpoint that was written before its batch was counted as completed has that made good when the loop begins.
            current.completed = loader.resumed_at - loop.restarted_on_train_batch_end

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
        """Save what the last checkpoint does not have, unless whoever asked to stop does not want to wait; give the signals back."""
        if isinstance(exception, Exception) and self._last_step not in (-1, trainer.global_step):
            all_fail = isinstance(exception, TrainingError) and are_alike(trainer)  # of what they found out together
            if trainer.world_size == 1 or all_fail:
                self._rescue(trainer, pl_module)
            else:
                logger.warning("step %d is not saved, the last checkpoint is of step %d: the other processes may be gone already",
                               trainer.global_step, self._last_step)  # fmt: skip
        self._give_back(trainer)

    def _rescue(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save in the middle of a batch that has failed, as if it had ended: a resumed run goes on with the next one."""
        if first_broken(pl_module) is not None or (isinstance(pl_module, TrainingWrapper) and pl_module.guard.has_diverged):
            logger.warning("step %d is not saved: its weights are not worth keeping", trainer.global_step)
            return
        if isinstance(pl_module, TrainingWrapper):
            pl_module.on_validation_end()  # which may have failed, too: training has its random numbers and weights back
        progress = trainer.fit_loop.epoch_loop.batch_progress
        following = _what_follows(trainer)
        states: list[Any] = [progress.current, progress.total]
        for state in states:
            state.started = state.processed = state.ready
            state.completed = max(state.ready - 1, 0)
        try:
            self.save(trainer, keeps_all=True)
        except Exception:  # what made the run fail may make this fail too
            logger.exception("step %d could not be saved", trainer.global_step)
            return
        logger.warning("saved step %d before giving up: %s; --recover or --ckpt-path goes on with %s",
                       trainer.global_step, self.last_path, following)  # fmt: skip

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

    def save(self, trainer: pl.Trainer, *, keeps_all: bool = False) -> None:
        """Save now, unless this step is saved already. ``keeps_all`` leaves the earlier ones: this one may be good for nothing."""
        if trainer.global_step == self._last_step:
            return
        self._last_step = trainer.global_step
        path = self.folder / f"epoch={trainer.current_epoch}-step={trainer.global_step}.ckpt"
        with averaged_iterates(trainer.optimizers):
            trainer.save_checkpoint(path)
        self.last_path = path
        if trainer.is_global_zero and self.keep_last > 0 and not keeps_all:
            # By age rather than by step: a run that was resumed from an earlier checkpoint must not lose what it has just written.
            by_age = sorted(find_checkpoints(self.folder), key=lambda path: path.stat().st_mtime_ns)
            for old in by_age[: -self.keep_last]:
                remove(old)

    # ---- the best ones -------------------------------------------------------------------------------------------------------------

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save if this validation is one of the best.

        Raises:
            ConfigError: If validation does not log what is monitored.
        """
        if not self.keep_best or trainer.sanity_checking:
            return
        if isinstance(pl_module, TrainingWrapper):
            pl_module.on_validation_end()  # training has its random numbers and weights back, as a checkpoint must have them
        value = self._monitored(trainer.callback_metrics)
        folder = self.folder.parent / "best"
        scores = read_scores(folder)
        name = f"epoch={trainer.current_epoch}-step={trainer.global_step}.ckpt"
        ranked = sorted({**scores, name: value}.items(), key=lambda item: -item[1] if self.largest else item[1])
        kept = dict(ranked[: self.keep_best])
        if not math.isfinite(value) or name not in kept:
            return
        with averaged_iterates(trainer.optimizers):
            trainer.save_checkpoint(folder / name)
        if trainer.is_global_zero:
            with atomic_path(folder / SCORES) as path:
                path.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
            for old in set(scores) - set(kept):
                remove(folder / old)

    def _monitored(self, metrics: Mapping[str, Any]) -> float:
        names = [name for name in metrics if name.startswith("val/")]
        for name in (self.monitor,) if self.monitor != "auto" else MONITORED:
            if name in metrics:
                return float(metrics[name])
        raise ConfigError(f"--monitor {self.monitor}: validation does not log that; it logs {', '.join(sorted(names)) or 'nothing'}")


def _what_follows(trainer: pl.Trainer) -> str:
    """What a run that has failed does first when it is resumed."""
    current = trainer.fit_loop.epoch_loop.batch_progress.current
    if current.ready > current.completed:
        return "the batch after the one that failed"
    if trainer.validating:
        return "the batch after this validation"
    if trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
        return "the next pass"
    return "the batch that could not be read, and will fail again if its data are as they are now"


def read_scores(folder: Path) -> dict[str, float]:
    """What the best checkpoints in a folder were kept for, by file name; those that are gone do not count."""
    try:
        scores = json.loads((folder / SCORES).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {name: float(value) for name, value in scores.items() if (folder / name).exists()}


def remove(path: Path) -> None:
    """Delete a checkpoint: a file, or the folder that sharded strategies write."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def find_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a run, oldest step first."""
    found = [(int(match.group(2)), path) for path in folder.rglob("*.ckpt") if (match := NAME.search(path.name))]
    return [path for _, path in sorted(found)]
