"""``training`` of an autoencoder."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from stable_audio_tools.config.base import Component, NonNegativeFloat, NonNegativeInt, PositiveInt, Probability, Strict, part_mistakes
from stable_audio_tools.config.training.adapters import WithAdapter
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


class ReconstructionMetrics(Strict):
    """``metrics``: how near reconstructions come to real files, every so many steps. ``latent`` compares by the model's own latents."""

    ref_audios_path: str
    ref_audios_ext: str = ".mp3"
    metrics_every: PositiveInt = 1000
    max_samples: PositiveInt = 100
    embedding_types: list[Literal["latent"]] = ["latent"]
    skip_first: bool = True


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
        if self.warmup_steps and not adversary and not self.encoder_freeze_on_warmup:
            yield Mistake(("warmup_steps",), "warning: has no effect: there is no discriminator to wait for", "warning")
