"""DiffusionCondTrainingWrapper: trains conditional diffusion models."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from stable_audio_tools.config.model import DiffusionCondConfig, DiffusionCondInpaintConfig
from stable_audio_tools.config.training.diffusion import DiffusionCondTraining
from stable_audio_tools.errors import DataError
from stable_audio_tools.families import WRAPPERS
from stable_audio_tools.models.diffusion.wrappers import ConditionedDiffusionModelWrapper
from stable_audio_tools.sampling.inpainting import random_inpaint_mask
from stable_audio_tools.training.base import padding_mask_of, unbatch
from stable_audio_tools.training.diffusion.base import DiffusionTrainingWrapper
from stable_audio_tools.training.diffusion.loss import DiffusionLoss, diffusion_loss
from stable_audio_tools.training.ema import EMA
from stable_audio_tools.training.optimizers import create_optimizer_from_config
from stable_audio_tools.training.randomness import isolated_randomness
from stable_audio_tools.training.schedulers import create_scheduler_from_config


class DiffusionCondTrainingWrapper(DiffusionTrainingWrapper):
    """Trains a `ConditionedDiffusionModelWrapper`: backbone, conditioners and, if ``enable_grad``, the pretransform.

    Args:
        model: The model.
        training: The ``training`` section of its config.
    """

    model_prefix = "diffusion"

    def __init__(self, model: ConditionedDiffusionModelWrapper, training: DiffusionCondTraining) -> None:
        super().__init__(training.timestep_sampler, training.timestep_sampler_options)
        self.diffusion = model
        self.training_config = training
        if training.use_ema:
            self.ema_prefix = "diffusion_ema"
            self.diffusion_ema = EMA(model.model)

    def configure_optimizers(self) -> Any:
        """As configured, or AdamW at ``learning_rate``."""
        configs = self.training_config.optimizer_configs
        default = {"optimizer": {"type": "AdamW", "config": {"lr": self.training_config.learning_rate}}}
        chosen = configs.diffusion.model_dump() if configs else default
        optimizer = create_optimizer_from_config(chosen["optimizer"], self.diffusion.named_parameters())
        if chosen.get("scheduler") is None:
            return optimizer
        scheduler = create_scheduler_from_config(chosen["scheduler"], optimizer)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

    def _loss_mask(self, metadata: Sequence[Mapping[str, Any]], length: int) -> Tensor | None:
        """(B, L), True on audio and False on padding; None to count everything."""
        config = self.training_config
        if not config.mask_padding or random.random() <= config.mask_padding_dropout:
            return None
        mask = padding_mask_of(metadata, length, self.device)
        if mask is None:
            raise DataError("training.mask_padding needs a 'padding_mask' in the metadata of every item, which this dataset does not give")
        return mask

    def _content_if_known(self, metadata: Sequence[Mapping[str, Any]], latents: Tensor) -> Tensor:
        """The same; everything is content if an item does not say."""
        content = padding_mask_of(metadata, latents.shape[-1], latents.device)
        return torch.ones_like(latents[:, 0], dtype=torch.bool) if content is None else content

    def _with_gaps(self, conditioning: Mapping[str, Any], latents: Tensor, mask: Tensor) -> dict[str, Any]:
        """Conditions, and what an inpainting model gets to see of the latents: ``mask`` (B, 1, L) is 1 there."""
        return {**conditioning, "inpaint_mask": [mask], "inpaint_masked_input": [latents * mask]}

    def _shift_length(self, metadata: Sequence[Mapping[str, Any]], latents: Tensor) -> int | Tensor:
        """What shifts of times go by: L, or the latent frames of each item."""
        if not self.diffusion.use_effective_length_for_schedule:
            return latents.shape[-1]
        lengths = self.diffusion.effective_lengths(metadata)
        if lengths is None:
            return self._content_if_known(metadata, latents).sum(dim=-1).clamp(min=1)
        return torch.tensor(lengths, device=latents.device)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The loss of one batch."""
        reals, metadata = unbatch(batch)
        conditioning = self.diffusion.conditioner(metadata, self.device) if self.diffusion.conditioner is not None else {}
        latents = self.latents_of(reals)
        mask = self._loss_mask(metadata, latents.shape[-1])
        t = self.timestep_sampler(latents.shape[0], device=self.device)
        if self.diffusion.dist_shift is not None:
            t = self.diffusion.dist_shift.shift(t, self._shift_length(metadata, latents))
        config = self.training_config
        if config.p_one_shot > 0:
            t = torch.where(torch.rand_like(t) < config.p_one_shot, torch.ones_like(t), t)
        content = self._content_if_known(metadata, latents) if config.inpainting or self.diffusion.mask_padding_attention else None
        if config.inpainting is not None:
            assert content is not None
            options = {**config.inpainting.mask_kwargs.model_dump(), "mask_padding": self.diffusion.mask_padding_attention}
            conditioning = self._with_gaps(conditioning, latents, random_inpaint_mask(latents, content, **options)[1])
        hidden = {"padding_mask": content} if self.diffusion.mask_padding_attention else {}
        result = diffusion_loss(self.diffusion, latents, t, conditioning, mask=mask, cfg_dropout_prob=config.cfg_dropout_prob, **hidden)
        self._log(result, latents)
        return result.loss

    def _log(self, result: DiffusionLoss, latents: Tensor) -> None:
        self.log_training(result.loss, {"mse_loss": result.loss}, latents)
        if self.training_config.log_loss_info:
            bucket = (result.t * 10).long().clamp(0, 9)
            by_time = {f"model/loss_all_{index / 10:.1f}": result.per_item[bucket == index].mean() for index in bucket.unique().tolist()}
            self.log_dict(by_time, on_step=True)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Log the loss at fixed times with noise fixed per batch, so that the number moves only when the model does."""
        reals, metadata = unbatch(batch)
        with isolated_randomness(batch_idx):  # a VAE draws its latents
            conditioning = self.diffusion.conditioner(metadata, self.device) if self.diffusion.conditioner is not None else {}
            latents = self.latents_of(reals)
        if self.training_config.inpainting is not None:  # the second half is to be filled in
            is_kept = torch.arange(latents.shape[-1], device=latents.device) < latents.shape[-1] // 2
            conditioning = self._with_gaps(conditioning, latents, is_kept.to(latents.dtype).expand(latents.shape[0], 1, -1))
        hidden = {"padding_mask": self._content_if_known(metadata, latents)} if self.diffusion.mask_padding_attention else {}

        def loss_of(t: Tensor, noise: Tensor) -> Tensor:
            return diffusion_loss(self.diffusion, latents, t, conditioning, noise=noise, **hidden).loss

        self.log_validation(latents, batch_idx, loss_of)


@WRAPPERS.register("diffusion_cond")
def wrap_diffusion_cond(model: ConditionedDiffusionModelWrapper, config: DiffusionCondConfig) -> DiffusionCondTrainingWrapper:
    """The training wrapper of a conditional diffusion model."""
    assert config.training is not None
    return DiffusionCondTrainingWrapper(model, config.training)


@WRAPPERS.register("diffusion_cond_inpaint")
def wrap_diffusion_cond_inpaint(
    model: ConditionedDiffusionModelWrapper, config: DiffusionCondInpaintConfig
) -> DiffusionCondTrainingWrapper:
    """The training wrapper of an inpainting model."""
    return wrap_diffusion_cond(model, config)
