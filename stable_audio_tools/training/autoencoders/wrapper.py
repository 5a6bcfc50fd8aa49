"""AutoencoderTrainingWrapper: spectral, time and bottleneck losses, with or without an adversary."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from stable_audio_tools.checkpoint import load_model_weights
from stable_audio_tools.config.model import AutoencoderConfig
from stable_audio_tools.config.training.autoencoder import METRICS, AutoencoderLosses, AutoencoderTraining
from stable_audio_tools.errors import ConfigError
from stable_audio_tools.families import DISCRIMINATORS, LOSSES, WRAPPERS
from stable_audio_tools.models.autoencoders.autoencoder import AudioAutoencoder
from stable_audio_tools.models.factory import create_model_from_config
from stable_audio_tools.training.autoencoders.exercises import (
    CURRICULUM_PERIOD,
    CURRICULUM_STAGE,
    USUAL_STRIDES,
    Strides,
    curriculum,
    patch_of,
    without_tails,
)
from stable_audio_tools.training.autoencoders.terms import DEFAULT_LOSSES, generator_losses
from stable_audio_tools.training.base import unbatch
from stable_audio_tools.training.discriminators.base import Discriminator
from stable_audio_tools.training.ema import EMA
from stable_audio_tools.training.losses.modules import MultiLoss, ValueLoss
from stable_audio_tools.training.losses.stft import SumAndDifferenceSTFTLoss
from stable_audio_tools.training.optimizers import create_optimizer_from_config
from stable_audio_tools.training.players import DISCRIMINATOR, GENERATOR, AlternatingWrapper
from stable_audio_tools.training.randomness import isolated_randomness
from stable_audio_tools.training.schedulers import create_scheduler_from_config


class AutoencoderTrainingWrapper(AlternatingWrapper):
    """Trains an `AudioAutoencoder`.

    Each batch, or each ``accum_batches`` of them, makes one optimizer step. With a discriminator, odd steps train it and even steps train
    the autoencoder; before ``warmup_steps`` the autoencoder is trained without it.

    Args:
        autoencoder: The model.
        training: The ``training`` section of its config; None is what the following arguments say.
        loss_config: ``loss_configs``.
        eval_loss_config: ``eval_loss_configs``.
        optimizer_configs: As in the config; None is AdamW at ``lr``.
        lr: Learning rate.
        use_ema: Keep a moving average of the weights.
        ema_copy: No effect: the average starts as a copy of the model. Accepted since published scripts pass it.
        sample_rate: No effect: the model knows its own. Accepted since published scripts pass it.
        warmup_steps: Steps before the adversary counts.
        warmup_mode: ``adv``: its terms wait; ``full``: it is not trained until then either.
        encoder_freeze_on_warmup: Train only the decoder after that.
        clip_grad_norm: Largest norm of a player's gradient; 0 does not clip.
        force_input_mono: Encode the mean of the channels.
        latent_mask_ratio: Share of the latents' values that are hidden from the decoder in training.
        teacher_model: A trained autoencoder with the same latents, to be imitated.
    """

    model_prefix = "autoencoder"
    reproduced = "the reconstruction's spectra"

    def __init__(
        self,
        autoencoder: AudioAutoencoder,
        training: AutoencoderTraining | None = None,
        *,
        loss_config: Mapping[str, Any] | None = None,
        eval_loss_config: Mapping[str, Any] | None = None,
        optimizer_configs: Mapping[str, Any] | None = None,
        lr: float = 1e-4,
        use_ema: bool = False,
        ema_copy: nn.Module | None = None,
        sample_rate: int | None = None,
        warmup_steps: int = 0,
        warmup_mode: str = "adv",
        encoder_freeze_on_warmup: bool = False,
        clip_grad_norm: float = 0.0,
        force_input_mono: bool = False,
        latent_mask_ratio: float = 0.0,
        teacher_model: AudioAutoencoder | None = None,
    ) -> None:
        super().__init__()
        self._is_rehearsing = False
        self.autoencoder = autoencoder
        self.training_config = training or AutoencoderTraining.model_validate({
            "learning_rate": lr, "use_ema": use_ema, "loss_configs": loss_config, "eval_loss_configs": eval_loss_config,
            "optimizer_configs": optimizer_configs, "warmup_steps": warmup_steps, "warmup_mode": warmup_mode,
            "encoder_freeze_on_warmup": encoder_freeze_on_warmup, "clip_grad_norm": clip_grad_norm,
            "force_input_mono": force_input_mono, "latent_mask_ratio": latent_mask_ratio,
        })  # fmt: skip
        config = self.training_config
        self.losses = config.loss_configs or AutoencoderLosses.model_validate(DEFAULT_LOSSES)
        self.gradient_clip_val = config.clip_grad_norm
        self.log_every_n_steps = config.log_every_n_steps
        self._curriculum = list(curriculum(autoencoder, config.stride_curriculum))
        if config.use_ema:
            self.ema_prefix = "autoencoder_ema"
            self.autoencoder_ema = EMA(autoencoder)
        self.teacher_model = teacher_model.requires_grad_(False).eval() if teacher_model is not None else None
        given = {"in_channels": autoencoder.out_channels, "sample_rate": autoencoder.sample_rate}
        spectral = self.losses.spectral.config
        self.lrstft = LOSSES.build("mrstft", spectral, **given)
        if autoencoder.out_channels == 2:
            self.sdstft = SumAndDifferenceSTFTLoss(**{"sample_rate": autoencoder.sample_rate, **spectral})
        adversary = self.losses.discriminator
        self.discriminator: Discriminator | None = None
        if adversary is not None:
            self.discriminator = DISCRIMINATORS.build(adversary.type, adversary.config, **given)
            self.losses_disc = MultiLoss([ValueLoss("discriminator_loss", "discriminator_loss")])
        whole = self.sdstft if autoencoder.out_channels == 2 else self.lrstft
        self.losses_gen = generator_losses(
            self.losses, autoencoder, whole=whole, each=self.lrstft, has_teacher=self.teacher_model is not None
        )
        chosen = config.eval_loss_configs.chosen() if config.eval_loss_configs else {}
        self.eval_losses = nn.ModuleDict({key: LOSSES.build(METRICS[key], options, **given) for key, options in chosen.items()})

    def frozen_modules(self) -> Iterator[nn.Module]:
        if self.teacher_model is not None:
            yield self.teacher_model
        if self.autoencoder.pretransform is not None and not self.autoencoder.pretransform.enable_grad:
            yield self.autoencoder.pretransform
        if self.is_encoder_frozen and self.autoencoder.encoder is not None:
            yield self.autoencoder.encoder

    @property
    def has_idle_parameters(self) -> bool:
        return super().has_idle_parameters or self.discriminator is not None or self.training_config.encoder_freeze_on_warmup

    @property
    def is_warmed_up(self) -> bool:
        """Whether the adversarial terms are on."""
        return self._is_rehearsing or self.global_step >= self.training_config.warmup_steps

    @property
    def is_encoder_frozen(self) -> bool:
        """Whether only the decoder is trained by now."""
        return self.is_warmed_up and self.training_config.encoder_freeze_on_warmup

    @property
    def is_discriminator_turn(self) -> bool:
        """Whether the next step is the discriminator's."""
        is_there = self.discriminator is not None and (self.is_warmed_up or self.training_config.warmup_mode == "adv")
        return is_there and self.global_step % 2 == 1

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

    # ---- what is compared ------------------------------------------------------------------------------------------------------

    def heard(self, audio: Tensor) -> Tensor:
        """What the encoder gets of audio (B, C, T): with ``force_input_mono`` the mean of the channels, for each of its own."""
        if not self.training_config.force_input_mono:
            return audio
        return audio.mean(dim=1, keepdim=True).expand(-1, self.autoencoder.in_channels, -1)

    def reconstruct(self, reals: Tensor, *, is_taught: bool = True) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """Audio (B, C, T) through the model, trimmed to a common length: (reals, decoded, info).

        Args:
            reals: (B, C, T)
            is_taught: Whether ``info`` has what a teacher makes of it, if there is one.
        """
        encoder_input, ratio = self.heard(reals), self.training_config.latent_mask_ratio
        strides = self._strides()
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.is_encoder_frozen):
            latents, info = self.autoencoder.encode(encoder_input, return_info=True, **strides.encoder)
        info["latents"] = latents
        if ratio > 0 and self.training:  # validation measures what the model can do
            latents = torch.where(torch.rand_like(latents) < ratio, torch.zeros_like(latents), latents)
        decoded = self.autoencoder.decode(latents, **strides.decoder)
        if self.teacher_model is not None and is_taught:
            with torch.no_grad():
                info["teacher_latents"] = self.teacher_model.encode(encoder_input)
                info["teacher_decoded"] = self.teacher_model.decode(info["teacher_latents"])
            info["own_latents_teacher_decoded"] = self.teacher_model.decode(latents)
            info["teacher_latents_own_decoded"] = self.autoencoder.decode(info["teacher_latents"])
        length = min(decoded.shape[-1], reals.shape[-1])
        info |= {key: value[..., :length] for key, value in info.items() if key.endswith("_decoded")}
        return reals[..., :length], decoded[..., :length], info

    def _strides(self) -> Strides:
        """Those of this step."""
        if not self._curriculum or not self.training or self.global_step % CURRICULUM_PERIOD != CURRICULUM_PERIOD - 1:
            return USUAL_STRIDES
        return self._curriculum[self.global_step // CURRICULUM_STAGE % len(self._curriculum)]

    def reconstruction_losses(self, reals: Tensor, decoded: Tensor, info: dict[str, Any]) -> dict[str, Tensor]:
        """Weighted loss terms of the autoencoder, by name: all that can be computed from audio and ``info``.

        Args:
            reals: (B, C, T)
            decoded: (B, C, T)
            info: What `reconstruct` reports; ``loss_adv`` and ``feature_matching_distance`` if the adversary is to count.
        """
        info = {**info, "reals": reals.float(), "decoded": decoded.float()}
        if decoded.shape[1] == 2:
            for key in ("reals", "decoded"):
                info[f"{key}_left"], info[f"{key}_right"] = info[key].split(1, dim=1)  # (B, 1, T) each
        return self.losses_gen(info, only_known=True)[1]

    def _generator_terms(self, reals: Tensor) -> tuple[dict[str, Tensor], dict[str, Any]]:
        reals, decoded, info = self.reconstruct(reals)
        logs = {"train/latent_std": info["latents"].detach().std(), "train/data_std": reals.std()}
        if self.discriminator is not None and self.is_warmed_up:
            self.discriminator.requires_grad_(False)  # its gradients would be computed and thrown away
            info["loss_adv"], info["feature_matching_distance"] = self.discriminator.generator_losses(reals, decoded)
            self.discriminator.requires_grad_(True)
        return self.reconstruction_losses(reals, decoded, info), logs

    def _discriminator_terms(self, reals: Tensor) -> tuple[dict[str, Tensor], dict[str, Any]]:
        assert self.discriminator is not None
        with torch.no_grad():
            reals, decoded, _ = self.reconstruct(reals, is_taught=False)
        return self.losses_disc({"discriminator_loss": self.discriminator.discriminator_loss(reals, decoded)})[1], {}

    def rehearsals(self, batch: Any) -> Sequence[Callable[[], Any]]:
        """A step after the warm-up, when there is more to compute."""
        return () if self.is_warmed_up or self.discriminator is None else (partial(self._rehearse, unbatch(batch)[0]),)

    def _rehearse(self, reals: Tensor) -> None:
        self._is_rehearsing = True
        self.eval()  # so that codebooks stay as they are
        try:
            self._generator_terms(reals)
        finally:
            self._is_rehearsing = False
            self.train()

    # ---- steps -----------------------------------------------------------------------------------------------------------------

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """A batch for the player whose turn it is, and its optimizer's step if it is the last of ``accum_batches``."""
        reals, _ = unbatch(batch)
        encoder = self.autoencoder.encoder
        if self.is_encoder_frozen and encoder is not None and encoder.training:
            encoder.eval()  # from this step on
        if self.training_config.tail_masking_max_patches:
            reals = without_tails(reals, self.training_config.tail_masking_max_patches, patch_of(self.autoencoder))
        player = DISCRIMINATOR if self.is_discriminator_turn else GENERATOR
        terms_of = self._discriminator_terms if player == DISCRIMINATOR else self._generator_terms
        return self.play(player, batch_idx, partial(terms_of, reals))

    def reproduction_error(self, batch: Any) -> Tensor:
        """The spectral distance of the reconstruction, as a share of that of noise as loud as the batch."""
        reals, decoded, _ = self.reconstruct(unbatch(batch)[0])
        distance = self.sdstft if reals.shape[1] == 2 else self.lrstft
        noise = torch.randn_like(reals) * reals.std()
        return distance(decoded.float(), reals.float()) / distance(noise.float(), reals.float())

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Log losses and metrics of reconstruction, with random numbers fixed per batch, so that they move only when the model does."""
        reals, _ = unbatch(batch)
        with isolated_randomness(batch_idx):
            reals, decoded, info = self.reconstruct(reals)
        options: dict[str, Any] = {"on_epoch": True, "sync_dist": True}
        losses = {f"val/{name}": value for name, value in self.reconstruction_losses(reals, decoded, info).items()}
        self.log_dict(losses, batch_size=len(reals), **options)
        for key, metric in self.eval_losses.items():
            measured = metric(decoded, reals)
            measured = -measured if key == "sisdr" else measured  # a ratio, of which more is better
            is_silent = bool(measured.isnan())  # nothing to judge: weighs nothing, in the same mean, which all processes must log
            self.log(f"val/{key}", measured.where(~measured.isnan(), 0), batch_size=0 if is_silent else len(reals), **options)


@WRAPPERS.register("autoencoder")
def wrap_autoencoder(model: AudioAutoencoder, config: AutoencoderConfig) -> AutoencoderTrainingWrapper:
    """The training wrapper of an autoencoder."""
    assert config.training is not None
    return AutoencoderTrainingWrapper(model, config.training, teacher_model=load_teacher(model, config.training))


def load_teacher(model: AudioAutoencoder, training: AutoencoderTraining) -> AudioAutoencoder | None:
    """The trained model that another one is to imitate; None without ``teacher_model``.

    Raises:
        ConfigError: If it is no autoencoder, or its latents are others.
        CheckpointError: If its weights do not fit.
    """
    if training.teacher_model is None or training.teacher_model_ckpt is None:
        return None
    teacher = create_model_from_config(training.teacher_model)
    if not isinstance(teacher, AudioAutoencoder):
        raise ConfigError(f"training.teacher_model: must be a model of type 'autoencoder', got {training.teacher_model['model_type']!r}")
    for key in ("latent_dim", "downsampling_ratio", "in_channels", "out_channels", "sample_rate"):
        theirs, ours = getattr(teacher, key), getattr(model, key)
        if theirs != ours:
            raise ConfigError(f"training.teacher_model: its {key} is {theirs}, but the model's is {ours}; they must be equal")
    load_model_weights(teacher, training.teacher_model_ckpt)
    return teacher
