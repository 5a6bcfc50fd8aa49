"""``training`` of an autoencoder."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from stable_audio_tools.config.base import Component, NonNegativeFloat, NonNegativeInt, PositiveInt, Probability, Strict, part_mistakes
from stable_audio_tools.config.training.base import TrainingConfig
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


class DiscriminatorWeights(Strict):
    """Weights of the adversarial game."""

    adversarial: float
    feature_matching: float


class DiscriminatorBlock(Component):
    """The adversary."""

    family: ClassVar[str] = "DISCRIMINATORS"
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

    discriminator: DiscriminatorBlock | None = None
    spectral: SpectralLoss
    time: TimeLoss | None = None
    bottleneck: BottleneckLoss | None = None


class AutoencoderDemo(Strict):
    """When to write reconstructions."""

    demo_every: PositiveInt = 2000


class AutoencoderOptimizers(Strict):
    """Optimizers by what they update."""

    autoencoder: OptimizerConfig
    discriminator: OptimizerConfig | None = None


class AutoencoderTraining(TrainingConfig):
    """``training`` of an autoencoder."""

    learning_rate: NonNegativeFloat | None = None
    warmup_steps: NonNegativeInt = 0
    encoder_freeze_on_warmup: bool = False
    use_ema: bool = False
    loss_configs: AutoencoderLosses | None = None
    optimizer_configs: AutoencoderOptimizers | None = None
    force_input_mono: bool = False
    latent_mask_ratio: Probability = 0.0
    demo: AutoencoderDemo = AutoencoderDemo()

    def conflicts(self) -> Iterator[Mistake]:
        if self.optimizer_configs is None and self.learning_rate is None:
            yield Mistake((), "needs learning_rate or optimizer_configs", "missing")
        adversary = self.loss_configs is None or self.loss_configs.discriminator is not None
        if self.optimizer_configs is not None and adversary and self.optimizer_configs.discriminator is None:
            yield Mistake(("optimizer_configs",), "needs a 'discriminator' optimizer, since there is a discriminator", "missing")
        if self.optimizer_configs is not None and self.optimizer_configs.discriminator is not None and not adversary:
            yield Mistake(("optimizer_configs", "discriminator"), "warning: has no effect: there is no discriminator", "warning")
        if self.warmup_steps and not adversary and not self.encoder_freeze_on_warmup:
            yield Mistake(("warmup_steps",), "warning: has no effect: there is no discriminator to wait for", "warning")
