"""DiffusionCondTrainingWrapper: trains conditional diffusion models."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stable_audio_tools.config.model import DiffusionCondConfig, DiffusionCondInpaintConfig
from stable_audio_tools.config.training import DiffusionCondTraining
from stable_audio_tools.errors import DataError
from stable_audio_tools.families import TIMESTEPS, WRAPPERS
from stable_audio_tools.models.diffusion.wrappers import ConditionedDiffusionModelWrapper
from stable_audio_tools.sampling.inpainting import random_inpaint_mask
from stable_audio_tools.sampling.timesteps import TimestepSampler
from stable_audio_tools.training.base import TrainingWrapper, of_every_process, of_this_process, unbatch
from stable_audio_tools.training.diffusion.loss import DiffusionLoss, diffusion_loss
from stable_audio_tools.training.ema import EMA
from stable_audio_tools.training.optimizers import create_optimizer_from_config
from stable_audio_tools.training.randomness import isolated_randomness
from stable_audio_tools.training.schedulers import create_scheduler_from_config

VALIDATION_TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)


class DiffusionCondTrainingWrapper(TrainingWrapper):
    """Trains a `ConditionedDiffusionModelWrapper`: backbone, conditioners and, if ``enable_grad``, the pretransform.

    Args:
        model: The model.
        training: The ``training`` section of its config.
    """

    model_prefix = "diffusion"

    def __init__(self, model: ConditionedDiffusionModelWrapper, training: DiffusionCondTraining) -> None:
        super().__init__()
        self.diffusion = model
        self.training_config = training
        self.timestep_sampler: TimestepSampler = TIMESTEPS.build(training.timestep_sampler, training.timestep_sampler_options)
        if training.use_ema:
            self.ema_prefix = "diffusion_ema"
            self.diffusion_ema = EMA(model.model)

    def frozen_modules(self) -> Iterator[nn.Module]:
        if self.diffusion.pretransform is not None and not self.diffusion.pretransform.enable_grad:
            yield self.diffusion.pretransform

    @contextmanager
    def averaged(self) -> Iterator[nn.Module]:
        online = self.diffusion.model
        try:
            if self.ema_prefix:
                self.diffusion.model = self.diffusion_ema.ema_model
            yield self.diffusion.eval()
        finally:
            self.diffusion.model = online
            self.train(self.training)

    def configure_optimizers(self) -> Any:
        """As configured, or AdamW at ``learning_rate``."""
        configs = self.training_config.optimizer_configs
        default = {"optimizer": {"type": "AdamW", "config": {"lr": self.training_config.learning_rate}}}
        chosen = configs.diffusion.model_dump() if configs else default
        optimizer = create_optimizer_from_config(chosen["optimizer"], self.diffusion.parameters())
        if chosen.get("scheduler") is None:
            return optimizer
        scheduler = create_scheduler_from_config(chosen["scheduler"], optimizer)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

    def latents_of(self, reals: Tensor) -> Tensor:
        """Audio (B, C, T), or latents if the data is pre-encoded -> what the model denoises, (B, D, L)."""
        pretransform = self.diffusion.pretransform
        if pretransform is None:
            return reals
        if self.training_config.pre_encoded:
            self._check_channels(reals, pretransform.encoded_channels, "latents (pre_encoded is true)")
            scale = getattr(pretransform, "scale", 1.0)
            return reals / scale if scale != 1.0 else reals
        self._check_channels(reals, pretransform.io_channels, "audio (pre_encoded is false)")
        with torch.set_grad_enabled(torch.is_grad_enabled() and pretransform.enable_grad):
            return pretransform.encode(reals)

    @staticmethod
    def _check_channels(reals: Tensor, channels: int, what: str) -> None:
        if reals.shape[1] != channels:
            raise DataError(
                f"the model expects {what} with {channels} channels, but the dataset gives {reals.shape[1]}; does training.pre_encoded "
                "agree with the dataset_type, and audio_channels with the model?"
            )

    def _loss_mask(self, metadata: Sequence[Mapping[str, Any]], length: int) -> Tensor | None:
        """(B, L), True on audio and False on padding; None to count everything."""
        config = self.training_config
        if not config.mask_padding or random.random() <= config.mask_padding_dropout:
            return None
        return self._content(metadata, length)

    def _content(self, metadata: Sequence[Mapping[str, Any]], length: int) -> Tensor:
        """(B, L), True on audio and False on padding."""
        masks = [item["padding_mask"] for item in metadata]
        stacked = torch.stack([mask[0] if isinstance(mask, (list, tuple)) else mask for mask in masks]).float().to(self.device)
        return F.interpolate(stacked.view(len(masks), 1, -1), size=length, mode="nearest")[:, 0].bool()

    def _content_if_known(self, metadata: Sequence[Mapping[str, Any]], latents: Tensor) -> Tensor:
        """The same; everything is content if an item does not say."""
        if all("padding_mask" in item for item in metadata):
            return self._content(metadata, latents.shape[-1])
        return torch.ones(latents.shape[0], latents.shape[-1], dtype=torch.bool, device=latents.device)

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
        logs = {"train/loss": result.loss.detach(), "train/mse_loss": result.loss.detach(), "train/std_data": latents.detach().std()}
        optimizers = self.trainer.optimizers
        if optimizers:
            logs["train/lr"] = optimizers[0].param_groups[0]["lr"]
        if self.training_config.log_loss_info:
            bucket = (result.t * 10).long().clamp(0, 9)
            for index in bucket.unique().tolist():
                logs[f"model/loss_all_{index / 10:.1f}"] = result.per_item[bucket == index].mean()
        self.log_dict(logs, on_step=True)
        self.log("loss", result.loss.detach(), prog_bar=True, logger=False)

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
        generator = torch.Generator().manual_seed(batch_idx)
        losses: list[Tensor] = []
        for time in VALIDATION_TIMES:
            noise = torch.randn(latents.shape, generator=generator).to(latents)
            t = latents.new_full((latents.shape[0],), time)
            losses.append(diffusion_loss(self.diffusion, latents, t, conditioning, noise=noise, **hidden).loss)
            self.log(f"val/loss_{time}", losses[-1], on_epoch=True, sync_dist=True, batch_size=latents.shape[0])
        self.log("val/avg_loss", torch.stack(losses).mean(), on_epoch=True, sync_dist=True, batch_size=latents.shape[0])

    def on_before_zero_grad(self, optimizer: torch.optim.Optimizer) -> None:
        """Follow the weights before they are updated, as published runs did."""
        if self.ema_prefix:
            self.diffusion_ema.update()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["timestep_sampler"] = of_every_process(self.timestep_sampler.state_dict())

    def on_load_checkpoint(self, checkpoint: Mapping[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.timestep_sampler.load_state_dict(of_this_process(checkpoint.get("timestep_sampler")) or {})

    def renew_streams(self) -> None:
        options = self.training_config.timestep_sampler_options
        self.timestep_sampler = TIMESTEPS.build(self.training_config.timestep_sampler, options)


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
