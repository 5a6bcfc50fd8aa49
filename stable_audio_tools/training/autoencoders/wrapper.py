"""AutoencoderTrainingWrapper: spectral, time and bottleneck losses, with or without an adversary."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stable_audio_tools.config.model import AutoencoderConfig
from stable_audio_tools.config.training.autoencoder import AutoencoderLosses, AutoencoderTraining
from stable_audio_tools.errors import ConfigError
from stable_audio_tools.families import DISCRIMINATORS, LOSSES, WRAPPERS
from stable_audio_tools.models.autoencoders.autoencoder import AudioAutoencoder
from stable_audio_tools.training.base import TrainingWrapper, unbatch
from stable_audio_tools.training.discriminators.base import Discriminator
from stable_audio_tools.training.ema import EMA
from stable_audio_tools.training.losses.bottleneck import bottleneck_losses
from stable_audio_tools.training.losses.stft import MultiResolutionSTFTLoss, SumAndDifferenceSTFTLoss
from stable_audio_tools.training.optimizers import create_optimizer_from_config
from stable_audio_tools.training.randomness import isolated_randomness
from stable_audio_tools.training.schedulers import create_scheduler_from_config

SCALES = (2048, 1024, 512, 256, 128, 64, 32)
DEFAULT_LOSSES: dict[str, Any] = {
    "discriminator": {
        "type": "encodec",
        "config": {"filters": 32, "n_ffts": list(SCALES), "hop_lengths": [n // 4 for n in SCALES], "win_lengths": list(SCALES)},
        "weights": {"adversarial": 0.1, "feature_matching": 5.0},
    },
    "spectral": {
        "config": {
            "fft_sizes": list(SCALES), "hop_sizes": [n // 4 for n in SCALES], "win_lengths": list(SCALES), "perceptual_weighting": True,
        },
        "weights": {"mrstft": 1.0},
    },
    "time": {"weights": {"l1": 0.0}},
}  # fmt: skip


class AutoencoderTrainingWrapper(TrainingWrapper):
    """Trains an `AudioAutoencoder`.

    Each batch makes one optimizer step. With a discriminator, odd steps train it and even steps train the autoencoder; before
    ``warmup_steps`` the autoencoder is trained without it.

    Args:
        autoencoder: The model.
        training: The ``training`` section of its config.
    """

    model_prefix = "autoencoder"

    def __init__(self, autoencoder: AudioAutoencoder, training: AutoencoderTraining) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.autoencoder = autoencoder
        self.training_config = training
        self.losses = training.loss_configs or AutoencoderLosses.model_validate(DEFAULT_LOSSES)
        if training.use_ema:
            self.ema_prefix = "autoencoder_ema"
            self.autoencoder_ema = EMA(autoencoder)
        spectral = self.losses.spectral
        if autoencoder.out_channels == 2:
            self.sdstft = SumAndDifferenceSTFTLoss(sample_rate=autoencoder.sample_rate, **spectral.config)
        self.lrstft: MultiResolutionSTFTLoss = LOSSES.build("mrstft", spectral.config, sample_rate=autoencoder.sample_rate)
        adversary = self.losses.discriminator
        self.discriminator: Discriminator | None = None
        if adversary is not None:
            self.discriminator = DISCRIMINATORS.build(adversary.type, adversary.config, in_channels=autoencoder.out_channels)

    def frozen_modules(self) -> Iterator[nn.Module]:
        if self.autoencoder.pretransform is not None and not self.autoencoder.pretransform.enable_grad:
            yield self.autoencoder.pretransform
        if self.is_warmed_up and self.training_config.encoder_freeze_on_warmup and self.autoencoder.encoder is not None:
            yield self.autoencoder.encoder

    @property
    def has_idle_parameters(self) -> bool:
        return self.discriminator is not None or self.training_config.encoder_freeze_on_warmup

    @property
    def is_warmed_up(self) -> bool:
        """Whether the adversarial terms are on."""
        return self.global_step >= self.training_config.warmup_steps

    def configure_optimizers(self) -> Any:
        """One optimizer for the autoencoder, one for the discriminator; schedulers as configured."""
        default = {"optimizer": {"type": "AdamW", "config": {"lr": self.training_config.learning_rate, "betas": [0.8, 0.99]}}}
        configs = self.training_config.optimizer_configs
        chosen = [configs.autoencoder.model_dump() if configs else default]
        modules: list[nn.Module] = [self.autoencoder]
        if self.discriminator is not None:
            chosen.append(configs.discriminator.model_dump() if configs and configs.discriminator else default)
            modules.append(self.discriminator)
        optimizers = [create_optimizer_from_config(c["optimizer"], m.named_parameters()) for c, m in zip(chosen, modules, strict=True)]
        schedulers = [
            create_scheduler_from_config(c["scheduler"], optimizer)
            for c, optimizer in zip(chosen, optimizers, strict=True)
            if c.get("scheduler") is not None
        ]
        if schedulers and len(schedulers) != len(optimizers):
            raise ConfigError("training.optimizer_configs: give a scheduler to both optimizers or to none")
        return (optimizers, schedulers) if schedulers else optimizers

    def reconstruct(self, reals: Tensor) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """Audio (B, C, T) through the model, trimmed to a common length: (reals, decoded, info)."""
        config = self.training_config
        encoder_input = reals.mean(dim=1, keepdim=True).expand_as(reals) if config.force_input_mono else reals
        frozen = self.is_warmed_up and config.encoder_freeze_on_warmup
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            latents, info = self.autoencoder.encode(encoder_input, return_info=True)
        info["latents"] = latents
        if config.latent_mask_ratio > 0:
            latents = torch.where(torch.rand_like(latents) < config.latent_mask_ratio, torch.zeros_like(latents), latents)
        decoded = self.autoencoder.decode(latents)
        length = min(decoded.shape[-1], reals.shape[-1])
        return reals[..., :length], decoded[..., :length], info

    def reconstruction_losses(self, reals: Tensor, decoded: Tensor, info: dict[str, Any]) -> dict[str, Tensor]:
        """Weighted loss terms that need no adversary, by name."""
        losses, calls = self.losses, self.global_step + 1
        spectral = losses.spectral.weights.mrstft * losses.spectral.decay**calls
        terms: dict[str, Tensor] = {}
        if decoded.shape[1] == 2:
            terms["mrstft_loss"] = spectral * self.sdstft(decoded, reals)
            terms["stft_loss_left"] = spectral / 2 * self.lrstft(decoded[:, :1], reals[:, :1])
            terms["stft_loss_right"] = spectral / 2 * self.lrstft(decoded[:, 1:], reals[:, 1:])
        else:
            terms["mrstft_loss"] = spectral * self.lrstft(decoded, reals)
        if losses.time is not None:
            decay = losses.time.decay**calls
            if losses.time.weights.l1 > 0:
                terms["l1_time_loss"] = losses.time.weights.l1 * decay * F.l1_loss(decoded.float(), reals.float())
            if losses.time.weights.l2 > 0:
                terms["l2_time_loss"] = losses.time.weights.l2 * decay * F.mse_loss(decoded.float(), reals.float())
        configured = losses.bottleneck.weights.model_dump(exclude_none=True) if losses.bottleneck else {}
        return terms | bottleneck_losses(self.autoencoder.bottleneck, info, configured)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """One optimizer step of the player whose turn it is."""
        reals, _ = unbatch(batch)
        optimizers, schedulers = self.optimizers(), cast("Any", self.lr_schedulers())
        optimizers = optimizers if isinstance(optimizers, list) else [optimizers]
        schedulers = [] if schedulers is None else schedulers if isinstance(schedulers, list) else [schedulers]
        is_discriminator_turn = self.discriminator is not None and self.global_step % 2 == 1
        player = 1 if is_discriminator_turn else 0
        terms, logs = self._discriminator_terms(reals) if is_discriminator_turn else self._generator_terms(reals)
        loss = torch.stack(list(terms.values())).sum()
        if not is_discriminator_turn and self.ema is not None:
            self.ema.update()
        optimizer = optimizers[player]
        self.guard.note({f"train/{name}": term for name, term in terms.items()})
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        if schedulers:
            schedulers[player].step()
        rate = "train/disc_lr" if is_discriminator_turn else "train/gen_lr"
        logs |= {rate: optimizer.param_groups[0]["lr"], **{f"train/{name}": term.detach() for name, term in terms.items()}}
        if not is_discriminator_turn:
            logs["train/loss"] = loss.detach()
        self.log_dict(logs, prog_bar=False, on_step=True)
        self.log("loss", loss.detach(), prog_bar=True, logger=False)
        return loss.detach()

    def _generator_terms(self, reals: Tensor) -> tuple[dict[str, Tensor], dict[str, Any]]:
        reals, decoded, info = self.reconstruct(reals)
        terms = self.reconstruction_losses(reals, decoded, info)
        adversary = self.losses.discriminator
        if self.discriminator is not None and adversary is not None and self.is_warmed_up:
            self.discriminator.requires_grad_(False)  # its gradients would be computed and thrown away
            adversarial, matching = self.discriminator.generator_losses(reals, decoded)
            self.discriminator.requires_grad_(True)
            terms["loss_adv"] = adversary.weights.adversarial * adversarial
            terms["feature_matching_loss"] = adversary.weights.feature_matching * matching
        return terms, {"train/latent_std": info["latents"].detach().std(), "train/data_std": reals.std()}

    def _discriminator_terms(self, reals: Tensor) -> tuple[dict[str, Tensor], dict[str, Any]]:
        assert self.discriminator is not None
        with torch.no_grad():
            reals, decoded, _ = self.reconstruct(reals)
        return {"discriminator_loss": self.discriminator.discriminator_loss(reals, decoded)}, {}

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Log the reconstruction losses, with random numbers fixed per batch, so that they move only when the model does."""
        reals, _ = unbatch(batch)
        with isolated_randomness(batch_idx):
            reals, decoded, info = self.reconstruct(reals)
        terms = self.reconstruction_losses(reals, decoded, info)
        self.log_dict({f"val/{name}": value for name, value in terms.items()}, on_epoch=True, sync_dist=True, batch_size=reals.shape[0])


@WRAPPERS.register("autoencoder")
def wrap_autoencoder(model: AudioAutoencoder, config: AutoencoderConfig) -> AutoencoderTrainingWrapper:
    """The training wrapper of an autoencoder."""
    assert config.training is not None
    return AutoencoderTrainingWrapper(model, config.training)
