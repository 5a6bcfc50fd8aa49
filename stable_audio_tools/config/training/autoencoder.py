"""``training`` of an autoencoder."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from stable_audio_tools.config.base import (
    Component,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Probability,
    Strict,
    part_mistakes,
)
from stable_audio_tools.config.training.adapters import NO_SMALL_CODEC, WithAdapter
from stable_audio_tools.config.training.base import TrainingConfig
from stable_audio_tools.config.training.metrics import ReconstructionMetrics
from stable_audio_tools.config.training.optimizers import OptimizerConfig
from stable_audio_tools.families import LOSSES
from stable_audio_tools.registry import Mistake


class SpectralWeights(Strict):
    """Weights of the multi-resolution STFT loss."""

    mrstft: float


class SpectralLoss(Strict):
    """Multi-resolution STFT loss; ``config`` goes to it."""

    type: str | None = None  # published configs name one; there is one
    config: dict[str, Any]
    weights: SpectralWeights
    decay: float = 1.0

    def conflicts(self) -> Iterator[Mistake]:
        yield from part_mistakes(LOSSES, "mrstft", (), self.config, ("config",))


class TimeWeights(Strict):
    """Weights of losses on the waveform."""

    refused = {"mmd": "there is no such distance of waveforms; use l1 or l2"}
    l1: float = 0.0
    l2: float = 0.0


class TimeLoss(Strict):
    """Losses on the waveform."""

    type: str | None = None
    config: dict[str, Any] = {}
    weights: TimeWeights
    decay: float = 1.0

    def conflicts(self) -> Iterator[Mistake]:
        if self.config:
            yield Mistake(("config",), "warning: has no effect", "warning")


class MelWeights(Strict):
    """Weights of the multi-resolution mel loss."""

    mrmel: float


class MelLoss(Strict):
    """Multi-resolution mel loss; ``config`` goes to it."""

    type: str | None = None
    config: dict[str, Any] = {}
    weights: MelWeights
    decay: float = 1.0

    def conflicts(self) -> Iterator[Mistake]:
        yield from part_mistakes(LOSSES, "mel", (), self.config, ("config",))


class HubertWeights(Strict):
    """Weights of the semantic loss."""

    hubert: float


class SemanticLoss(Strict):
    """Distance of what a pretrained speech model hears; ``config`` goes to the loss ``hubert``."""

    type: str | None = None
    config: dict[str, Any] = {}
    weights: HubertWeights
    decay: float = 1.0

    def conflicts(self) -> Iterator[Mistake]:
        yield from part_mistakes(LOSSES, "hubert", (), self.config, ("config",))


class DiscriminatorWeights(Strict):
    """Weights of the adversarial game."""

    adversarial: float
    feature_matching: float


class DiscriminatorBlock(Component):
    """The adversary."""

    family: ClassVar[str] = "DISCRIMINATORS"
    absent = {
        "transformer": 'there is no adversary of transformers; encodec with "loss_type": "rpgan" plays the same game on spectra',
        "hil": "there is no adversary on this filter bank; dac and big_vgan look at bands",
    }
    weights: DiscriminatorWeights


class BottleneckWeights(Strict):
    """Weights of the bottleneck's own loss terms: those that it has, by name without ``_loss``. Unless given, its defaults hold."""

    kl: float | None = None
    mmd: float | None = None
    quantizer: float | None = None
    codebook: float | None = None
    commitment: float | None = None
    softnorm: float | None = None


class BottleneckLoss(Strict):
    """The bottleneck's own loss term."""

    type: str | None = None
    config: dict[str, Any] = {}
    weights: BottleneckWeights


class AutoencoderLosses(Strict):
    """``loss_configs`` of an autoencoder. Without ``discriminator`` there is no adversarial training."""

    refused = {
        "contrastive": "there is no critic that compares audio with texts; post-training of diffusion models has one (arc)",
        "jepa": "there is no loss that predicts hidden latents; latent_mask_ratio hides some from the decoder",
        "generative": "there is no diffusion model beside the autoencoder; a model of type diffusion_autoencoder is one",
        "semantic_regressors": "there are no regressors on latents; mrmel and hubert compare what is heard",
        "clap": "there is no loss of CLAP; hubert compares what a pretrained model hears, and metrics measures with CLAP",
        "latent_distillation": "a teacher is named by training.teacher_model and teacher_model_ckpt",
    }
    discriminator: DiscriminatorBlock | None = None
    spectral: SpectralLoss
    time: TimeLoss | None = None
    mrmel: MelLoss | None = None
    hubert: SemanticLoss | None = None
    bottleneck: BottleneckLoss | None = None


METRICS = {"pesq": "pesq", "stft": "stft", "sisdr": "si_sdr", "mel": "mel_stft"}  # key -> name of the loss that measures it


class AutoencoderMetrics(Strict):
    """``eval_loss_configs``: what is measured in validation; each value is the options of the loss that measures it."""

    pesq: dict[str, Any] | None = None
    stft: dict[str, Any] | None = None
    sisdr: dict[str, Any] | None = None
    mel: dict[str, Any] | None = None

    def chosen(self) -> dict[str, dict[str, Any]]:
        """Options by metric."""
        return {key: getattr(self, key) for key in METRICS if getattr(self, key) is not None}

    def conflicts(self) -> Iterator[Mistake]:
        for key, config in self.chosen().items():
            yield from part_mistakes(LOSSES, METRICS[key], (), config, (key,))


class AutoencoderDemo(Strict):
    """When to write reconstructions."""

    demo_every: PositiveInt = 2000


class AutoencoderOptimizers(Strict):
    """Optimizers by what they update."""

    autoencoder: OptimizerConfig
    discriminator: OptimizerConfig | None = None


class AutoencoderTraining(TrainingConfig, WithAdapter):
    """``training`` of an autoencoder.

    ``warmup_mode`` says what waits for ``warmup_steps``: ``adv`` only the adversary's terms, ``full`` the adversary itself too.
    ``clip_grad_norm`` is the largest norm of a player's gradient; 0 does not clip.
    """

    refused = {
        **NO_SMALL_CODEC,
        "decoder_finetune": 'write "train": "decoder" instead, which freezes the rest',
        "num_synthetic_chirps": "sounds are not made up in training; put chirps into the data",
        "decoder_loss": "no decoder has a loss of its own",
    }
    learning_rate: NonNegativeFloat | None = None
    warmup_steps: NonNegativeInt = 0
    warmup_mode: Literal["adv", "full"] = "adv"
    clip_grad_norm: NonNegativeFloat = 0.0
    encoder_freeze_on_warmup: bool = False
    use_ema: bool = False
    loss_configs: AutoencoderLosses | None = None
    eval_loss_configs: AutoencoderMetrics | None = None
    optimizer_configs: AutoencoderOptimizers | None = None
    force_input_mono: bool = False
    latent_mask_ratio: Probability = 0.0
    teacher_model: dict[str, Any] | None = None
    teacher_model_ckpt: str | None = None
    tail_masking_max_patches: NonNegativeInt = 0
    stride_curriculum: list[PositiveFloat] = []
    log_every_n_steps: PositiveInt = 1
    decoder_finetune: bool = False
    num_synthetic_chirps: NonNegativeInt = 0
    quantize_dropout: bool = False
    metrics: ReconstructionMetrics | None = None
    demo: AutoencoderDemo = AutoencoderDemo()

    def conflicts(self) -> Iterator[Mistake]:
        yield from super().conflicts()
        if self.optimizer_configs is None and self.learning_rate is None:
            yield Mistake((), "needs learning_rate or optimizer_configs", "missing")
        adversary = self.loss_configs is None or self.loss_configs.discriminator is not None
        if self.optimizer_configs is not None and adversary and self.optimizer_configs.discriminator is None:
            yield Mistake(("optimizer_configs",), "needs a 'discriminator' optimizer, since there is a discriminator", "missing")
        if self.optimizer_configs is not None and self.optimizer_configs.discriminator is not None and not adversary:
            yield Mistake(("optimizer_configs", "discriminator"), "warning: has no effect: there is no discriminator", "warning")
        if (self.teacher_model is None) != (self.teacher_model_ckpt is None):
            given, missing = (
                ("teacher_model", "teacher_model_ckpt") if self.teacher_model is not None else ("teacher_model_ckpt", "teacher_model")
            )
            yield Mistake((given,), f"needs {missing} too", "missing")
        if self.stride_curriculum and self.teacher_model is not None:
            yield Mistake(("stride_curriculum",), "contradicts teacher_model, whose latents are of one rate", "conflict")
        if self.quantize_dropout:
            yield Mistake(("quantize_dropout",), "warning: has no effect here: it belongs to the bottleneck's config", "warning")
        if self.warmup_steps and not adversary and not self.encoder_freeze_on_warmup:
            yield Mistake(("warmup_steps",), "warning: has no effect: there is no discriminator to wait for", "warning")
