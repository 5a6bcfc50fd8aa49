"""``training`` of diffusion models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from stable_audio_tools.config.base import NonNegativeFloat, NonNegativeInt, PositiveInt, Probability, Strict, part_mistakes
from stable_audio_tools.config.training.adapters import WithAdapter
from stable_audio_tools.config.training.optimizers import OptimizerConfig
from stable_audio_tools.families import TIMESTEPS
from stable_audio_tools.registry import Mistake


class DiffusionCondDemo(Strict):
    """What to generate while training, and how often."""

    demo_every: PositiveInt = 2000
    demo_steps: PositiveInt = 250
    num_demos: NonNegativeInt
    demo_cfg_scales: list[float]
    demo_cond: list[dict[str, Any]] = []
    demo_cond_from_batch: bool = False

    def conflicts(self) -> Iterator[Mistake]:
        if not self.demo_cond_from_batch and len(self.demo_cond) != self.num_demos:
            yield Mistake(("num_demos",), f"is {self.num_demos}, but demo_cond has {len(self.demo_cond)} entries", "conflict")
        if not self.demo_cfg_scales:
            yield Mistake(("demo_cfg_scales",), "warning: is empty: there will be no demos", "warning")


class DiffusionOptimizers(Strict):
    """Optimizers by what they update."""

    diffusion: OptimizerConfig
    discriminator: OptimizerConfig | None = None


class InpaintMasks(Strict):
    """Which parts of training items an inpainting model does not see; the options of ``sampling.inpainting.random_inpaint_mask``."""

    mask_type_probabilities: list[Probability] = [0.1, 0.8, 0.1]
    max_mask_segments: PositiveInt = 10
    max_spans: PositiveInt = 4
    mask_ratio_range: list[Probability] = [0.2, 1.0]
    span_count_weights: list[float] = [4.0, 2.0, 1.0, 1.0]

    def conflicts(self) -> Iterator[Mistake]:
        shares = self.mask_type_probabilities
        if len(shares) not in (3, 4) or abs(sum(shares) - 1) > 1e-6:
            text = f"needs 3 or 4 numbers with sum 1 (random segments, everything, causal, random spans), got {shares}"
            yield Mistake(("mask_type_probabilities",), text)
        if len(self.mask_ratio_range) != 2 or self.mask_ratio_range[0] > self.mask_ratio_range[1]:
            yield Mistake(("mask_ratio_range",), f"needs two numbers, the smaller one first, got {self.mask_ratio_range}")
        if len(self.span_count_weights) < self.max_spans:
            yield Mistake(("span_count_weights",), f"needs {self.max_spans} numbers (max_spans), got {len(self.span_count_weights)}")


class Inpainting(Strict):
    """How inpainting is trained."""

    mask_kwargs: InpaintMasks = InpaintMasks()


class DiffusionCondTraining(WithAdapter):
    """``training`` of a conditional diffusion model."""

    learning_rate: NonNegativeFloat | None = None
    optimizer_configs: DiffusionOptimizers | None = None
    use_ema: bool = True
    mask_padding: bool = False
    mask_padding_dropout: Probability = 0.0
    log_loss_info: bool = False
    pre_encoded: bool = False
    cfg_dropout_prob: Probability = 0.1
    timestep_sampler: str = "uniform"
    timestep_sampler_options: dict[str, Any] = {}
    p_one_shot: Probability = 0.0
    inpainting: Inpainting | None = None
    demo: DiffusionCondDemo | None = None
    clip_grad_norm: NonNegativeFloat = 0.0
    arc: dict[str, Any] | None = None

    def conflicts(self) -> Iterator[Mistake]:
        yield from super().conflicts()
        if self.arc is not None:  # released models say how they were made
            yield Mistake(("arc",), "warning: adversarial post-training is not available; the model can be used only", "warning")
        elif self.clip_grad_norm:
            yield Mistake(("clip_grad_norm",), "warning: has an effect with 'arc' only", "warning")
        if self.optimizer_configs is None and self.learning_rate is None:
            yield Mistake((), "needs learning_rate or optimizer_configs", "missing")
        options = ("timestep_sampler_options",)
        yield from part_mistakes(TIMESTEPS, self.timestep_sampler, ("timestep_sampler",), self.timestep_sampler_options, options)


class DiffusionCondInpaintDemo(DiffusionCondDemo):
    """What to fill in while training, and how often. Items and conditions come from the data."""

    num_demos: NonNegativeInt = 8

    def conflicts(self) -> Iterator[Mistake]:
        yield from ()


class DiffusionCondInpaintTraining(DiffusionCondTraining):
    """``training`` of an inpainting model."""

    inpainting: Inpainting | None = Inpainting()
    demo: DiffusionCondInpaintDemo | None = None  # pyright: ignore[reportIncompatibleVariableOverride]


# ---- without conditions ----------------------------------------------------------------------------------------------------


class DiffusionDemo(Strict):
    """What to generate while training, and how often."""

    demo_every: PositiveInt = 2000
    demo_steps: PositiveInt = 250
    num_demos: PositiveInt = 8


class DiffusionUncondTraining(WithAdapter):
    """``training`` of an unconditional diffusion model."""

    learning_rate: NonNegativeFloat
    pre_encoded: bool = False
    demo: DiffusionDemo | None = None
    demo_every: PositiveInt | None = None  # where configs had them before there was "demo"
    demo_steps: PositiveInt | None = None
    num_demos: PositiveInt | None = None


class DiffusionAutoencoderTraining(Strict):
    """``training`` of a diffusion autoencoder."""

    learning_rate: NonNegativeFloat
    use_reconstruction_loss: bool = False
    demo: DiffusionDemo | None = None
