"""DiffusionUncondTrainingWrapper: trains unconditional diffusion models."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from stable_audio_tools.config.model import DiffusionUncondConfig
from stable_audio_tools.config.training.diffusion import DiffusionUncondTraining
from stable_audio_tools.families import WRAPPERS
from stable_audio_tools.models.diffusion.uncond import DiffusionModelWrapper
from stable_audio_tools.training.base import unbatch
from stable_audio_tools.training.diffusion.base import DiffusionTrainingWrapper
from stable_audio_tools.training.diffusion.loss import DiffusionLoss, denoising_loss
from stable_audio_tools.training.ema import EMA
from stable_audio_tools.training.randomness import isolated_randomness


class DiffusionUncondTrainingWrapper(DiffusionTrainingWrapper):
    """Trains a `DiffusionModelWrapper`: backbone and, if ``enable_grad``, the pretransform. Times are uniform.

    Args:
        model: The model.
        training: The ``training`` section of its config; None is what the following arguments say.
        lr: Learning rate.
        pre_encoded: Batches hold latents, not audio.
    """

    model_prefix = "diffusion"
    ema_prefix = "diffusion_ema"

    def __init__(
        self, model: DiffusionModelWrapper, training: DiffusionUncondTraining | None = None, lr: float = 1e-4, pre_encoded: bool = False
    ) -> None:
        super().__init__()
        self.diffusion = model
        self.training_config = training or DiffusionUncondTraining(learning_rate=lr, pre_encoded=pre_encoded)
        self.diffusion_ema = EMA(model.model)

    def compute_loss(self, latents: Tensor, t: Tensor, noise: Tensor | None = None) -> DiffusionLoss:
        """The loss of latents (B, D, L) at times (B,); ``noise`` (B, D, L) is drawn unless it is given."""
        return denoising_loss(self.diffusion, latents, t, objective=self.diffusion.diffusion_objective, noise=noise)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The loss of one batch."""
        latents = self.latents_of(unbatch(batch)[0])
        loss = self.compute_loss(latents, self.timestep_sampler(latents.shape[0], device=self.device)).loss
        self.log_training(loss, {"mse_loss": loss}, latents)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Log the loss at fixed times."""
        with isolated_randomness(batch_idx):  # a VAE draws its latents
            latents = self.latents_of(unbatch(batch)[0])
        self.log_validation(latents, batch_idx, lambda t, noise: self.compute_loss(latents, t, noise).loss)


@WRAPPERS.register("diffusion_uncond")
def wrap_diffusion_uncond(model: DiffusionModelWrapper, config: DiffusionUncondConfig) -> DiffusionUncondTrainingWrapper:
    """The training wrapper of an unconditional diffusion model."""
    return DiffusionUncondTrainingWrapper(model, config.training)
