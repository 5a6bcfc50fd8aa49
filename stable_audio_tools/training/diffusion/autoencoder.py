"""DiffusionAutoencoderTrainingWrapper: trains encoder, decoder and the diffusion model that makes audio of latents."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor, nn

from stable_audio_tools.config.model import DiffusionAutoencoderConfig
from stable_audio_tools.config.training.diffusion import DiffusionAutoencoderTraining
from stable_audio_tools.families import WRAPPERS
from stable_audio_tools.models.autoencoders.diffusion_autoencoder import DiffusionAutoencoder
from stable_audio_tools.training.autoencoders.terms import DEFAULT_LOSSES
from stable_audio_tools.training.base import TrainingWrapper, unbatch
from stable_audio_tools.training.diffusion.base import DiffusionTrainingWrapper
from stable_audio_tools.training.diffusion.loss import DiffusionLoss, denoising_loss
from stable_audio_tools.training.ema import EMA
from stable_audio_tools.training.losses.bottleneck import bottleneck_losses
from stable_audio_tools.training.losses.stft import MultiResolutionSTFTLoss, SumAndDifferenceSTFTLoss
from stable_audio_tools.training.randomness import isolated_randomness, item_seeds
from stable_audio_tools.training.sections import takes_keys_of

RECONSTRUCTION_WEIGHT = 0.1


@takes_keys_of(DiffusionAutoencoderTraining, "training", renamed={"lr": "learning_rate"}, ignored=("ema_copy",))
class DiffusionAutoencoderTrainingWrapper(DiffusionTrainingWrapper):
    """Trains a `DiffusionAutoencoder`: everything but its pretransform.

    Args:
        model: The model.
        training: The ``training`` section of its config. Its keys may be given as keywords instead, ``learning_rate`` as ``lr`` too;
            ``ema_copy`` has no effect: the average starts as a copy of ``model``.
    """

    model_prefix = "diffae"
    ema_prefix = "diffae_ema"

    def __init__(self, model: DiffusionAutoencoder, training: DiffusionAutoencoderTraining) -> None:
        super().__init__(training.timestep_sampler, training.timestep_sampler_options)
        self.diffae = model
        self.training_config = training
        self.diffae_ema = EMA(model)
        self.spectral_loss: nn.Module | None = None
        if self.training_config.use_reconstruction_loss:
            distance = SumAndDifferenceSTFTLoss if model.out_channels == 2 else MultiResolutionSTFTLoss
            self.spectral_loss = distance(sample_rate=model.sample_rate, **DEFAULT_LOSSES["spectral"]["config"])

    def averaged(self) -> AbstractContextManager[nn.Module]:
        return TrainingWrapper.averaged(self)  # the average covers the whole model

    def compute_losses(
        self, data: Tensor, t: Tensor, noise: Tensor | None = None
    ) -> tuple[DiffusionLoss, dict[str, Tensor], dict[str, Any]]:
        """The losses of transformed audio (B, C, L) at times (B,).

        Args:
            data: What is denoised, and what latents are made from.
            t: Times.
            noise: (B, C, L); None draws it.

        Returns:
            The loss of denoising, the bottleneck's own weighted loss terms, and what the encoder reports.
        """
        latents, info = self.diffae.encode(data, skip_pretransform=True, return_info=True)
        info["latents"] = latents
        told = self.diffae.concat_condition(latents)  # (B, W, L)

        def predict(x_t: Tensor, t: Tensor) -> Tensor:
            return self.diffae.diffusion(x_t, t, input_concat_cond=told)

        result = denoising_loss(predict, data, t, objective="v", noise=noise)
        return result, bottleneck_losses(self.diffae.bottleneck, info), info

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The loss of one batch."""
        reals, _ = unbatch(batch)
        data = self.latents_of(reals)
        result, terms, info = self.compute_losses(data, self.timestep_sampler(data.shape[0], device=self.device))
        terms["mse_loss"] = result.loss
        if self.spectral_loss is not None:
            audio = result.denoised()
            if self.pretransform is not None:
                audio = self.pretransform.decode(audio)
            length = min(audio.shape[-1], reals.shape[-1])
            terms["mrstft_loss"] = RECONSTRUCTION_WEIGHT * self.spectral_loss(audio[..., :length], reals[..., :length])
        loss = sum(terms.values(), start=result.loss.new_zeros(()))
        self.log_training(loss, {**terms, "latent_std": info["latents"].std()}, data)
        self.log_by_time(result)
        return loss

    def reproduction_error(self, batch: Any) -> Tensor:
        data = self.latents_of(unbatch(batch)[0])
        return self.compute_losses(data, self.timestep_sampler(data.shape[0], device=self.device))[0].unexplained()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Log the loss of denoising at fixed times."""
        reals, metadata = unbatch(batch)
        seeds = item_seeds(metadata, position=batch_idx * len(reals))
        with isolated_randomness(batch_idx):  # its own VAE draws the batch's latents
            data = self.latents_of_items(reals, seeds)
            self.log_validation(data, seeds, lambda t, noise: self.compute_losses(data, t, noise)[0].loss)


@WRAPPERS.register("diffusion_autoencoder")
def wrap_diffusion_autoencoder(model: DiffusionAutoencoder, config: DiffusionAutoencoderConfig) -> DiffusionAutoencoderTrainingWrapper:
    """The training wrapper of a diffusion autoencoder."""
    assert config.training is not None
    return DiffusionAutoencoderTrainingWrapper(model, config.training)
