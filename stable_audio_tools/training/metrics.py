"""Metrics while training: how near what a model makes comes to real audio, measured every so many steps."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from stable_audio_tools.audio import load, prepare_audio
from stable_audio_tools.config.check import parse_model_config
from stable_audio_tools.config.source import Source
from stable_audio_tools.config.training.autoencoder import ReconstructionMetrics
from stable_audio_tools.errors import DataError
from stable_audio_tools.models.autoencoders.autoencoder import AudioAutoencoder
from stable_audio_tools.training.autoencoders.wrapper import AutoencoderTrainingWrapper
from stable_audio_tools.training.randomness import isolated_randomness

logger = logging.getLogger(__name__)


def create_metrics_callback_from_config(model_config: Mapping[str, Any] | str | Path | Source, **kwargs: Any) -> pl.Callback | None:
    """The callback that measures what ``training.metrics`` asks for; None if it asks for nothing.

    Args:
        model_config: The model's config.
        **kwargs: Others of published scripts; have no effect.

    Raises:
        ConfigError: With every mistake in the config.
        DataError: If there is no audio to compare with.
    """
    config = parse_model_config(model_config, strict=True)
    metrics = getattr(config.training, "metrics", None)
    if not isinstance(metrics, ReconstructionMetrics):
        return None
    return ReconstructionMetricsCallback(metrics, config.sample_size or config.sample_rate)


class ReconstructionMetricsCallback(pl.Callback):
    """Logs the Frechet distance between the latents of real audio and those of its reconstructions.

    Latents of the model itself, with averaged weights, each frame a point. It is 0 if nothing that the encoder hears gets lost.

    Args:
        metrics: ``training.metrics`` of the config.
        num_samples: Length of the clips, in samples.
    """

    def __init__(self, metrics: ReconstructionMetrics, num_samples: int) -> None:
        super().__init__()
        self.metrics, self.num_samples = metrics, num_samples
        folder = Path(metrics.ref_audios_path)
        self.files = sorted(folder.rglob(f"*{metrics.ref_audios_ext}"))[: metrics.max_samples]
        if not self.files:
            raise DataError(f"training.metrics.ref_audios_path: {folder} holds no file that ends in {metrics.ref_audios_ext!r}")

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Measure every ``metrics_every`` steps, on the first process."""
        step = trainer.global_step
        if not trainer.is_global_zero or step % self.metrics.metrics_every or (step == 0 and self.metrics.skip_first):
            return
        assert isinstance(pl_module, AutoencoderTrainingWrapper)
        value = self.measure(pl_module)
        logger.info("step %d: Frechet distance of latents %.4g on %d files", step, value, len(self.files))
        for sink in trainer.loggers:
            sink.log_metrics({"metrics/latent_frechet_distance": value}, step)

    @torch.no_grad()
    def measure(self, wrapper: AutoencoderTrainingWrapper) -> float:
        """The distance, now."""
        reals: list[Tensor] = []
        fakes: list[Tensor] = []
        with isolated_randomness(0), wrapper.averaged() as model:
            assert isinstance(model, AudioAutoencoder)
            for path in self.files:
                audio = load(path)
                clip = prepare_audio(
                    audio.samples, audio.sample_rate, model.sample_rate, self.num_samples, model.out_channels, wrapper.device
                )
                latents = model.encode(wrapper.heard(clip))  # (1, D, L)
                for points, of in ((reals, latents), (fakes, model.encode(wrapper.heard(model.decode(latents))))):
                    points.append(of[0].T.cpu())
        return frechet_distance(torch.cat(reals), torch.cat(fakes))


def frechet_distance(x: Tensor, y: Tensor) -> float:
    """Distance of two clouds of points (N, D) and (M, D), each taken for a Gaussian: ``|m - n|^2 + tr(A + B - 2 (A B)^(1/2))``.

    Source: Dowson & Landau 1982; Kilgour et al. 2019, arXiv:1812.08466.
    """
    x, y = x.double(), y.double()
    a, b = torch.cov(x.T).reshape(x.shape[1], -1), torch.cov(y.T).reshape(y.shape[1], -1)
    # The trace of the root of A B is the sum of the roots of its eigenvalues, which are those of the symmetric A^(1/2) B A^(1/2).
    values, vectors = torch.linalg.eigh(a)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    shared = torch.linalg.eigvalsh(root @ b @ root).clamp_min(0).sqrt().sum()
    return max(0.0, float((x.mean(dim=0) - y.mean(dim=0)).square().sum() + a.trace() + b.trace() - 2 * shared))
