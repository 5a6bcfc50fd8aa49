"""When metrics are measured, and of what: reconstructions of an autoencoder, or what a diffusion model makes of prompts."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from torch import Tensor, nn

from stable_audio_tools.audio import load, prepare_audio
from stable_audio_tools.config.check import parse_model_config
from stable_audio_tools.config.model import DiffusionCondConfig
from stable_audio_tools.config.source import Source
from stable_audio_tools.config.training.metrics import GenerationMetrics, Metrics, ReconstructionMetrics
from stable_audio_tools.errors import ConfigError, DataError
from stable_audio_tools.inference.generation import generate_diffusion_cond
from stable_audio_tools.models.autoencoders.autoencoder import AudioAutoencoder
from stable_audio_tools.models.diffusion.wrappers import ConditionedDiffusionModelWrapper
from stable_audio_tools.training.autoencoders.wrapper import AutoencoderTrainingWrapper
from stable_audio_tools.training.base import TrainingWrapper
from stable_audio_tools.training.metrics.embeddings import ClapEmbedding, LatentEmbedding, build_embeddings
from stable_audio_tools.training.metrics.frechet import frechet_distance
from stable_audio_tools.training.metrics.prompts import read_prompts
from stable_audio_tools.training.optims.schedule_free import averaged_iterates
from stable_audio_tools.training.randomness import isolated_randomness

logger = logging.getLogger(__name__)
GIVEN = ("prompt", "seconds_start", "seconds_total")  # what generations are conditioned on
PATIENCE = 20 * 60  # seconds: after 30 minutes, processes take one that they wait for to be dead
Chosen = TypeVar("Chosen", bound=Metrics)


def create_metrics_callback_from_config(model_config: Mapping[str, Any] | str | Path | Source, **kwargs: Any) -> pl.Callback | None:
    """The callback that measures what ``training.metrics`` asks for; None if it asks for nothing.

    Args:
        model_config: The model's config.
        **kwargs: Others of published scripts; have no effect.

    Raises:
        ConfigError: With every mistake in the config, or if a CLAP is not on this machine.
        DataError: If there is no audio to compare with, or no prompt.
    """
    config = parse_model_config(model_config, strict=True)
    metrics = getattr(config.training, "metrics", None)
    num_samples = config.sample_size or config.sample_rate
    if isinstance(metrics, ReconstructionMetrics):
        return ReconstructionMetricsCallback(metrics, num_samples)
    if isinstance(metrics, GenerationMetrics):
        assert isinstance(config, DiffusionCondConfig)
        _require_model(config, metrics)
        return GenerationMetricsCallback(metrics, num_samples)
    return None


def _require_model(config: DiffusionCondConfig, metrics: GenerationMetrics) -> None:
    conditioning = config.model.conditioning
    unknown = [block.id for block in (conditioning.configs if conditioning is not None else []) if block.id not in GIVEN]
    if unknown:
        raise ConfigError(f"training.metrics: the model is conditioned on {', '.join(unknown)}, which is not one of {', '.join(GIVEN)}")
    if "latent" in metrics.embeddings and config.model.pretransform is None:
        raise ConfigError("training.metrics.embedding_types: 'latent' needs a model with a pretransform; use 'clap'")


class MetricsCallback(pl.Callback, Generic[Chosen]):
    """Logs distances between real audio and what the model makes, every so many steps, on the first process.

    Averaged weights, fixed randomness. A measurement that fails is reported; it never ends the run.

    Args:
        metrics: ``training.metrics`` of the config.
        num_samples: Length of the clips, in samples.
        max_files: How many real files are used; None is all.
    """

    def __init__(self, metrics: Chosen, num_samples: int, max_files: int | None = None) -> None:
        super().__init__()
        self.metrics, self.num_samples = metrics, num_samples
        folder = Path(metrics.ref_audios_path)
        self.files = sorted(folder.rglob(f"*{metrics.ref_audios_ext}"))[:max_files]
        if not self.files:
            raise DataError(f"training.metrics.ref_audios_path: {folder} holds no file that ends in {metrics.ref_audios_ext!r}")
        self.embeddings = build_embeddings(metrics)
        if "clap" in self.embeddings and len(self.files) < 2:
            raise DataError(f"training.metrics.ref_audios_path: 'clap' compares clips, so it needs two files at least; {folder} has one")
        self._last_step = self._told = -1

    def numbers(self, wrapper: TrainingWrapper) -> dict[str, float]:
        """What is measured, by name."""
        raise NotImplementedError

    @torch.no_grad()
    def measure(self, wrapper: TrainingWrapper) -> dict[str, float]:
        """The numbers, now, by name. The random streams are as before afterwards."""
        with isolated_randomness(0):
            return self.numbers(wrapper)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        """Before the first step, if that is not to be skipped."""
        if trainer.global_step == 0 and not self.metrics.skip_first:
            self._run(trainer, pl_module)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Every ``metrics_every`` steps."""
        if trainer.global_step and trainer.global_step % self.metrics.metrics_every == 0:
            self._run(trainer, pl_module)

    def _run(self, trainer: pl.Trainer, wrapper: pl.LightningModule) -> None:
        step = trainer.global_step
        if step == self._last_step or not trainer.is_global_zero:
            return
        assert isinstance(wrapper, TrainingWrapper)
        self._last_step = step
        started = time.perf_counter()
        try:
            with averaged_iterates(trainer.optimizers):
                found = {f"metrics/{name}": value for name, value in self.measure(wrapper).items()}
        except Exception:  # a measurement must never end a run
            logger.exception("the metrics of step %d failed; training goes on", step)
            return
        told = ", ".join(f"{name} {value:.4g}" for name, value in found.items())
        logger.info("step %d: %s (%.1f s)", step, told, time.perf_counter() - started)
        for sink in trainer.loggers:
            sink.log_metrics(found, step)

    def real_clips(self, rate: int, channels: int, device: torch.device) -> Iterator[Tensor]:
        """The real files, each (C, T)."""
        for path in self.files:
            audio = load(path)
            yield prepare_audio(audio.samples, audio.sample_rate, rate, self.num_samples, channels, device)[0]

    def tell(self, what: str, done: int, total: int) -> None:
        """Say how far the measurement is, at every tenth of it, if that is wanted."""
        tenth = 10 * done // total
        if self.metrics.show_progress and tenth != self._told:
            logger.info("metrics: %s: %d of %d", what, done, total)
        self._told = tenth


def _num_processes() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _require_patience(seconds: float, num_processes: int) -> None:
    """Stop a measurement that takes longer than the other processes wait for this one, before they end the run.

    Raises:
        ConfigError: With the time that it would take.
    """
    if num_processes > 1 and seconds > PATIENCE:
        raise ConfigError(
            f"training.metrics.num_generations: they would take {seconds / 60:.0f} minutes, and {num_processes - 1} other processes wait "
            f"for {PATIENCE / 60:.0f} at most: make fewer, or fewer sampling_steps"
        )


class ReconstructionMetricsCallback(MetricsCallback[ReconstructionMetrics]):
    """Logs how far reconstructions are from the real files: ``metrics/<embedding>_frechet_distance``.

    It is 0 if nothing gets lost that the embedding tells.

    Args:
        metrics: ``training.metrics`` of the config.
        num_samples: Length of the clips, in samples.
    """

    def __init__(self, metrics: ReconstructionMetrics, num_samples: int) -> None:
        super().__init__(metrics, num_samples, metrics.max_samples)

    def numbers(self, wrapper: TrainingWrapper) -> dict[str, float]:
        reals: dict[str, list[Tensor]] = {name: [] for name in self.embeddings}
        fakes: dict[str, list[Tensor]] = {name: [] for name in self.embeddings}
        assert isinstance(wrapper, AutoencoderTrainingWrapper)
        with wrapper.averaged() as model:
            assert isinstance(model, AudioAutoencoder)
            for index, clip in enumerate(self.real_clips(model.sample_rate, model.out_channels, wrapper.device), start=1):
                made = model(wrapper.heard(clip[None]))[0]
                for name, embedding in self.embeddings.items():
                    for points, audio in ((reals, clip), (fakes, made)):
                        given = wrapper.heard(audio[None])[0] if isinstance(embedding, LatentEmbedding) else audio
                        points[name].append(embedding.points(model, [given]))
                self.tell("reconstructions", index, len(self.files))
        return {f"{name}_frechet_distance": frechet_distance(torch.cat(reals[name]), torch.cat(fakes[name])) for name in self.embeddings}


class GenerationMetricsCallback(MetricsCallback[GenerationMetrics]):
    """Logs how far what a model makes of prompts is from the real files: ``metrics/<embedding>_frechet_distance``.

    With CLAP also ``metrics/clap_score``: how well the clips fit their prompts, as the mean cosine of the two in its space.

    Args:
        metrics: ``training.metrics`` of the config.
        num_samples: Length of the longest clips, in samples.
    """

    def __init__(self, metrics: GenerationMetrics, num_samples: int) -> None:
        super().__init__(metrics, num_samples)
        self.prompts = read_prompts(metrics.prompts_path)
        if "clap" in self.embeddings and metrics.num_generations < 2:
            raise ConfigError("training.metrics.num_generations: 'clap' compares clips, so it needs two at least")
        self._reals: dict[str, Tensor] = {}

    def conditions(self, sample_rate: int) -> list[dict[str, Any]]:
        """One for each generation: prompts in random order, again and again, and random lengths; the same ones each time."""
        chance = random.Random(0)
        prompts = list(self.prompts)
        chance.shuffle(prompts)
        longest = self.num_samples / sample_rate
        made: list[dict[str, Any]] = []
        for index in range(self.metrics.num_generations):
            seconds = min(chance.uniform(self.metrics.min_length, self.metrics.max_length), longest)
            made.append({"prompt": prompts[index % len(prompts)], "seconds_start": 0, "seconds_total": seconds})
        return made

    def numbers(self, wrapper: TrainingWrapper) -> dict[str, float]:
        fakes: dict[str, list[Tensor]] = {name: [] for name in self.embeddings}
        fits: list[Tensor] = []
        with wrapper.averaged() as model:
            assert isinstance(model, ConditionedDiffusionModelWrapper)
            wanted, batch = self.conditions(model.sample_rate), self.metrics.decode_batch_size
            began = time.perf_counter()
            for start in range(0, len(wanted), batch):
                if start:
                    _require_patience((time.perf_counter() - began) / start * len(wanted), _num_processes())
                conditions = wanted[start : start + batch]
                clips = self._generate(model, conditions, seed=start, device=wrapper.device)
                for name, embedding in self.embeddings.items():
                    points = embedding.points(model, clips)
                    fakes[name].append(points)
                    if isinstance(embedding, ClapEmbedding):
                        texts = embedding.points_of_texts([item["prompt"] for item in conditions], wrapper.device)
                        fits.append((points * texts).sum(dim=1))  # (B,)
                self.tell("generations", start + len(conditions), len(wanted))
            reals = self._real_points(model, wrapper.device)
        found = {f"{name}_frechet_distance": frechet_distance(reals[name], torch.cat(fakes[name])) for name in self.embeddings}
        return {**found, "clap_score": float(torch.cat(fits).mean())} if fits else found

    def _generate(
        self, model: ConditionedDiffusionModelWrapper, conditions: Sequence[dict[str, Any]], *, seed: int, device: torch.device
    ) -> list[Tensor]:
        """Clips (C, T), as long as was asked for."""
        audio = generate_diffusion_cond(
            model,
            steps=self.metrics.sampling_steps,
            cfg_scale=self.metrics.cfg_scale,
            conditioning=list(conditions),
            batch_size=len(conditions),
            sample_size=self.num_samples,
            seed=seed,
            device=device,
            sampler_type={"v": "v-ddim"}.get(model.diffusion_objective),
            disable_tqdm=True,
        )
        lengths = [max(1, int(item["seconds_total"] * model.sample_rate)) for item in conditions]
        return [clip[:, :length].float() for clip, length in zip(audio, lengths, strict=True)]

    def _real_points(self, model: nn.Module, device: torch.device) -> dict[str, Tensor]:
        """Those of the real files. CLAP's are computed once; latents change if the autoencoder is trained."""
        rate, channels = int(model.sample_rate), self._channels(model)  # type: ignore[arg-type]
        for name, embedding in self.embeddings.items():
            if name not in self._reals or not isinstance(embedding, ClapEmbedding):
                self._reals[name] = torch.cat([embedding.points(model, [clip]) for clip in self.real_clips(rate, channels, device)])
        return self._reals

    @staticmethod
    def _channels(model: Any) -> int:
        return model.pretransform.io_channels if model.pretransform is not None else model.io_channels
