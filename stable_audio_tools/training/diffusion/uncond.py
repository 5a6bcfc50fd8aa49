"""DiffusionUncondTrainingWrapper: trains unconditional diffusion models."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from stable_audio_tools.config.model import DiffusionUncondConfig
from stable_audio_tools.config.training.diffusion import DiffusionUncondTraining
from stable_audio_tools.families import WRAPPERS
from stable_audio_tools.models.diffusion.uncond import DiffusionModelWrapper
from stable_audio_tools.training.base import unbatch
from stable_audio_tools.training.diffusion.base import DiffusionTrainingWrapper, noise_of_items
from stable_audio_tools.training.diffusion.loss import DiffusionLoss, denoising_loss
from stable_audio_tools.training.ema import EMA
from stable_audio_tools.training.randomness import item_seeds
from stable_audio_tools.training.sections import takes_keys_of


@takes_keys_of(DiffusionUncondTraining, "training", renamed={"lr": "learning_rate"}, ignored=("ema_copy",))
class DiffusionUncondTrainingWrapper(DiffusionTrainingWrapper):
    """Trains a `DiffusionModelWrapper`: backbone and, if ``enable_grad``, the pretransform.

    Args:
        model: The model.
        training: The ``training`` section of its config. Its keys may be given as keywords instead, ``learning_rate`` as ``lr`` too.
    """

    model_prefix = "diffusion"
    ema_prefix = "diffusion_ema"

    def __init__(self, model: DiffusionModelWrapper, training: DiffusionUncondTraining) -> None:
        super().__init__(training.timestep_sampler, training.timestep_sampler_options)
        self.diffusion = model
        self.training_config = training
        self.diffusion_ema = EMA(model.model)

    def compute_loss(self, latents: Tensor, t: Tensor, noise: Tensor | None = None) -> DiffusionLoss:
        """The loss of latents (B, D, L) at times (B,); ``noise`` (B, D, L) is drawn unless it is given."""
        return denoising_loss(self.diffusion, latents, t, objective=self.diffusion.diffusion_objective, noise=noise)

    def step_loss(self, batch: Any, batch_idx: int) -> tuple[DiffusionLoss, Tensor]:
        """The loss of one batch, and its latents (B, D, L)."""
        reals, metadata = unbatch(batch)
        if self.training_config.noise_by_item:
            seeds = self.seeds_of(metadata, batch_idx)
            latents = self.latents_of_items(reals, seeds)
            t, noise = self.times_of_items(seeds), noise_of_items(latents, seeds)
        else:
            latents, noise = self.latents_of(reals), None
            t = self.timestep_sampler(latents.shape[0], device=self.device)
        return self.compute_loss(latents, t, noise), latents

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The loss of one batch."""
        result, latents = self.step_loss(batch, batch_idx)
        self.log_training(result.loss, {"mse_loss": result.loss}, latents)
        self.log_by_time(result)
        return result.loss

    def reproduction_error(self, batch: Any) -> Tensor:
        return self.step_loss(batch, 0)[0].unexplained()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Log the loss at fixed times."""
        reals, metadata = unbatch(batch)
        seeds = item_seeds(metadata, position=batch_idx * len(reals))
        latents = self.latents_of_items(reals, seeds)
        self.log_validation(latents, seeds, lambda t, noise: self.compute_loss(latents, t, noise).loss)


@WRAPPERS.register("diffusion_uncond")
def wrap_diffusion_uncond(model: DiffusionModelWrapper, config: DiffusionUncondConfig) -> DiffusionUncondTrainingWrapper:
    """The training wrapper of an unconditional diffusion model."""
    assert config.training is not None
    return DiffusionUncondTrainingWrapper(model, config.training)
