"""The demo's training run."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from stable_audio_tools.demo.folder import DemoSettings
from stable_audio_tools.training.checkpointing import find_checkpoints
from stable_audio_tools.training.run import TrainOptions, train


def train_model(
    settings: DemoSettings, config: dict[str, Any], num_clips: int, use_half: bool, minutes: float, say: Callable[[str], None]
) -> Path | None:
    """Train, or go on training; the last checkpoint, or None if it was stopped."""
    folder = settings.output / "training"
    existing = find_checkpoints(folder)
    limit = TimeLimit(minutes * 60, settings.max_steps, say)
    repeat = max(1, -(-20 * settings.batch_size // num_clips))
    result = train(
        TrainOptions(
            model_config=config,
            dataset_config={
                "dataset_type": "stable_audio_tools.demo.latents:EncodedClips",
                "folder": str(settings.output / "latents"),
                "repeat": repeat,
            },
            run_folder=folder,
            name="demo",
            pretrained_ckpt_path=None if existing else settings.output / "initial.safetensors",
            ckpt_path=existing[-1] if existing else None,
            batch_size=settings.batch_size,
            num_workers=0,
            seed=settings.seed,
            precision="bf16-mixed" if use_half else "32-true",
            accelerator="cpu",
            max_steps=settings.max_steps,
            checkpoint_every=500,
            save_top_k=1,
            logger="tensorboard",
            demos=False,
            show_progress=False,
            callbacks=[limit],
        )
    )
    return None if result.stop_signal is not None else result.checkpoint or (existing[-1] if existing else None)


class TimeLimit(pl.Callback):
    """Ends training after some time, and says every 20 seconds how far it is.

    Args:
        seconds: How long training may take.
        max_steps: Steps after which it ends anyway.
        say: Receives progress.
    """

    EVERY_SECONDS = 20

    def __init__(self, seconds: float, max_steps: int, say: Callable[[str], None]) -> None:
        super().__init__()
        self.seconds, self.max_steps, self.say = seconds, max_steps, say
        self.started = 0.0
        self.first_step = 0
        self.last_said = 0.0

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Look at the clock."""
        if not self.started:
            self.started, self.first_step = time.perf_counter(), trainer.global_step
            return
        elapsed = time.perf_counter() - self.started
        if elapsed - self.last_said > self.EVERY_SECONDS or (not self.last_said and elapsed > 5):
            self.last_said = elapsed
            per_step = elapsed / (trainer.global_step - self.first_step)
            left = min(self.seconds - elapsed, per_step * (self.max_steps - trainer.global_step))
            loss = float(trainer.callback_metrics["train/loss"])
            self.say(f"   step {trainer.global_step}, loss {loss:.3f}, {per_step:.2f} s per step, {left / 60:.1f} minutes left")
        if elapsed > self.seconds:
            trainer.should_stop = True
