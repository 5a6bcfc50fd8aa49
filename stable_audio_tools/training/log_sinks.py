"""Where numbers, sounds and pictures of a run go."""

from __future__ import annotations

import csv
import importlib.util
import logging
import netrc
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import CometLogger, CSVLogger, Logger, TensorBoardLogger, WandbLogger
from pytorch_lightning.loggers.logger import rank_zero_experiment
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor

from stable_audio_tools.audio import load
from stable_audio_tools.checkpoint import atomic_path
from stable_audio_tools.optional import require
from stable_audio_tools.training.options import LoggerName

logger = logging.getLogger(__name__)


class LogSink:
    """Sends media to every logger that can show it.

    Args:
        loggers: Of a trainer.
    """

    def __init__(self, loggers: Sequence[Logger]) -> None:
        self.loggers = list(loggers)

    def log_audio(self, name: str, path: Path, audio: Tensor, sample_rate: int, step: int | None) -> None:
        """Log a clip (C, T) that was also written to ``path``."""
        for sink in self.loggers:
            if isinstance(sink, TensorBoardLogger):
                sink.experiment.add_audio(name, audio.mean(dim=0).clamp(-1, 1), step, sample_rate)
            elif isinstance(sink, WandbLogger):
                import wandb  # pyright: ignore[reportMissingImports]

                sink.experiment.log({name: wandb.Audio(str(path), sample_rate=sample_rate, caption=name)} | _at(step))
            elif isinstance(sink, CometLogger):
                sink.experiment.log_audio(str(path), sample_rate=sample_rate, file_name=name, step=step)

    def log_image(self, name: str, path: Path, step: int | None) -> None:
        """Log a picture that was written to ``path``."""
        for sink in self.loggers:
            if isinstance(sink, TensorBoardLogger):
                from matplotlib.image import imread

                sink.experiment.add_image(name, imread(path)[..., :3], step, dataformats="HWC")
            elif isinstance(sink, WandbLogger):
                import wandb  # pyright: ignore[reportMissingImports]

                sink.experiment.log({name: wandb.Image(str(path))} | _at(step))
            elif isinstance(sink, CometLogger):
                sink.experiment.log_image(str(path), name=name, step=step)


def _at(step: int | None) -> dict[str, int]:
    return {} if step is None else {"trainer/global_step": step}


def log_audio(logger: Logger, key: str, audio_path: str | Path, sample_rate: int, caption: str | None = None) -> None:
    """Send an audio file to one logger.

    Args:
        logger: Of Lightning; one that cannot show audio is left alone.
        key: Name to log it under.
        audio_path: The file.
        sample_rate: Its rate, in Hz.
        caption: Instead of ``key`` as the name of the clip.
    """
    LogSink([logger]).log_audio(caption or key, Path(audio_path), load(audio_path).samples, sample_rate, None)


def log_image(logger: Logger, key: str, img_path: str | Path) -> None:
    """Send a picture to one logger; one that cannot show pictures is left alone."""
    LogSink([logger]).log_image(key, Path(img_path), None)


def log_metric(logger: Logger, key: str, value: float | Tensor, step: int | None = None) -> None:
    """Send a number to one logger."""
    logger.log_metrics({key: float(value)}, step)


class ResumableCSVLogger(CSVLogger):
    """Lightning's, which deletes the table of an earlier part of the run; this one goes on with it."""

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """What writes the table."""
        if self._experiment is None:
            table = Path(self.log_dir, "metrics.csv")
            text = table.read_text(encoding="utf-8") if table.is_file() else ""
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*exists and is not empty.*")
                writer = super().experiment
            if text:
                table.write_text(text, encoding="utf-8")
                writer.metrics_keys = next(csv.reader(text.splitlines()))
        return self._experiment

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Write a row. The first one replaces what a run that was killed had written after the checkpoint that this one goes on from."""
        if self._is_first and step is not None:
            self._is_first = False
            self._cut(Path(self.experiment.metrics_file_path), step)
        super().log_metrics(metrics, step)

    _is_first = True

    def _cut(self, table: Path, step: int) -> None:
        if not table.is_file():
            return
        with table.open(encoding="utf-8", newline="") as stream:
            header, *rows = csv.reader(stream)
        column = header.index("step")
        kept = [row for row in rows if len(row) == len(header) and int(row[column]) < step]  # a killed run may leave half a row
        if len(kept) < len(rows):
            with atomic_path(table) as path, path.open("w", encoding="utf-8", newline="") as stream:
                csv.writer(stream).writerows([header, *kept])


def make_loggers(name: LoggerName, *, folder: Path, project: str, run_id: str) -> list[Logger]:
    """The loggers that a name stands for.

    Args:
        name: ``auto`` is TensorBoard and CSV, and Weights & Biases if one is logged in there; the others are what they say.
        folder: The run's folder.
        project: Project name for services.
        run_id: Name of the run for services.

    Raises:
        MissingExtraError: If a service is asked for whose package is not installed.
    """
    require_package(name)
    made: list[Logger] = []
    if name in ("auto", "tensorboard"):
        made.append(TensorBoardLogger(str(folder), name="", version="tensorboard"))
    if name in ("auto", "csv", "tensorboard"):
        made.append(ResumableCSVLogger(str(folder), name="", version="metrics", flush_logs_every_n_steps=50))
    if name == "wandb" or (name == "auto" and is_logged_in_to_wandb()):
        made.append(WandbLogger(project=project, name=run_id, save_dir=str(folder)))
    if name == "comet":
        made.append(CometLogger(project=project, name=run_id))  # type: ignore[call-arg]
    return made


def require_package(name: str) -> None:
    """Refuse a logger whose package is not installed.

    Raises:
        MissingExtraError: Saying how to get it.
    """
    if name == "wandb":
        require("wandb", extra="wandb", purpose="--logger wandb")
    if name == "comet":
        require("comet_ml", extra="comet", purpose="--logger comet")


def is_logged_in_to_wandb() -> bool:
    """Whether wandb is installed and has credentials; does not ask for any."""
    if importlib.util.find_spec("wandb") is None or os.environ.get("WANDB_MODE") in ("disabled", "offline"):
        return False
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def hyperparameters(config: Any) -> dict[str, Any]:
    """A config as flat hyperparameters for loggers: ``{"model.io_channels": 64, ...}``."""
    flat: dict[str, Any] = {}

    def walk(value: Any, path: str) -> None:
        if isinstance(value, dict):
            for key, item in value.items():
                walk(item, f"{path}.{key}" if path else str(key))
        elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
            for index, item in enumerate(value):
                walk(item, f"{path}.{index}")
        else:
            flat[path] = value if isinstance(value, (int, float, str, bool)) else str(value)

    walk(config, "")
    return flat
