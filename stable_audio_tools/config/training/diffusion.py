"""``training`` of diffusion models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from stable_audio_tools.config.base import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Probability, Strict, part_mistakes
from stable_audio_tools.config.training.adapters import NO_SMALL_CODEC, WithAdapter
from stable_audio_tools.config.training.arc import ARC, Trim
from stable_audio_tools.config.training.base import TrainingConfig
from stable_audio_tools.config.training.metrics import GenerationMetrics
from stable_audio_tools.config.training.optimizers import OptimizerConfig
from stable_audio_tools.families import TIMESTEPS
from stable_audio_tools.registry import Mistake

ARC_IGNORES = (  # keys of the loss that it does without. timestep_sampler is not among them: all published configs have it
    "learning_rate", "mask_padding", "mask_loss_weight", "loss_normalization", "ot_coupling", "noise_by_item", "p_one_shot",
)  # fmt: skip


class CondDisplayOptions(Strict):
    """``config`` of a `CondDisplay`."""

    pre_encoded: bool = False  # the condition is latents of the model's pretransform
    display_mix: bool = False  # also mix it with what is made


class CondDisplay(Strict):
    """A condition of demos that is audio, or an object from names to audio (stems), and is written beside what is made."""

    id: str
    type: Literal["audio", "audio_dict"]
    config: CondDisplayOptions = CondDisplayOptions()


class DiffusionCondDemo(Strict):
    """What to generate while training, and how often."""

    demo_every: PositiveInt = 2000
    demo_steps: PositiveInt = 250
    num_demos: NonNegativeInt
    demo_cfg_scales: list[float]
    demo_cond: list[dict[str, Any]] = []
    demo_cond_from_batch: bool = False
    display_audio_cond: bool = False
    cond_display_configs: list[CondDisplay] | None = None

    def conflicts(self) -> Iterator[Mistake]:
        if not self.demo_cond_from_batch and len(self.demo_cond) != self.num_demos:
            yield Mistake(("num_demos",), f"is {self.num_demos}, but demo_cond has {len(self.demo_cond)} entries", "conflict")
        if not self.demo_cfg_scales:
            yield Mistake(("demo_cfg_scales",), "warning: is empty: there will be no demos", "warning")
        if not self.demo_cond_from_batch:
            yield from self._without_audio()

    def _without_audio(self) -> Iterator[Mistake]:
        """Conditions to be shown that ``demo_cond`` does not have."""
        shown = [(("display_audio_cond",), "audio")] if self.display_audio_cond else []
        shown += [(("cond_display_configs", index), each.id) for index, each in enumerate(self.cond_display_configs or [])]
        for location, key in shown:
            if any(isinstance(item.get(key), (type(None), str, int, float)) for item in self.demo_cond):
                yield Mistake(
                    location, f"demo_cond has no audio under {key!r}; audio comes with the data: set demo_cond_from_batch", "conflict"
                )


class DiffusionTraining(TrainingConfig):
    """What ``training`` of every diffusion model may say."""

    learning_rate: NonNegativeFloat | None = None
    timestep_sampler: str = "uniform"
    timestep_sampler_options: dict[str, Any] = {}

    def conflicts(self) -> Iterator[Mistake]:
        yield from super().conflicts()
        options = ("timestep_sampler_options",)
        yield from part_mistakes(TIMESTEPS, self.timestep_sampler, ("timestep_sampler",), self.timestep_sampler_options, options)


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


class DiffusionCondTraining(DiffusionTraining, WithAdapter):
    """``training`` of a conditional diffusion model."""

    optimizer_configs: DiffusionOptimizers | None = None
    use_ema: bool = True
    mask_padding: bool = False
    mask_padding_dropout: Probability = 0.0
    mask_loss_weight: NonNegativeFloat | None = None
    mask_padding_attention: bool | None = None
    use_effective_length_for_schedule: bool | None = None
    silence_extension_scale_seconds: NonNegativeFloat = 0.0
    loss_normalization: Literal["none", "timestep", "sample", "sample_channel"] = "none"
    loss_norm_eps: PositiveFloat = 1e-6
    ot_coupling: bool = False
    noise_by_item: bool = False
    log_loss_info: bool = True
    log_every_n_steps: PositiveInt = 1
    pre_encoded: bool = False
    cfg_dropout_prob: Probability = 0.1
    p_one_shot: Probability = 0.0
    inpainting: Inpainting | None = None
    demo: DiffusionCondDemo | None = None
    clip_grad_norm: NonNegativeFloat = 0.0
    arc: ARC | None = None
    trim_config: Trim | None = None
    metrics: GenerationMetrics | None = None

    def conflicts(self) -> Iterator[Mistake]:
        yield from super().conflicts()
        if self.arc is not None:
            yield from self._arc_conflicts()
        else:
            for key in ("clip_grad_norm", "trim_config"):
                if getattr(self, key):
                    yield Mistake((key,), "warning: has an effect with 'arc' only", "warning")
            if self.optimizer_configs is None and self.learning_rate is None:
                yield Mistake((), "needs learning_rate or optimizer_configs", "missing")
        if self.mask_loss_weight is not None and self.mask_padding:
            yield Mistake(("mask_padding",), "warning: has no effect with mask_loss_weight, which says what padding counts", "warning")
        if self.ot_coupling and self.noise_by_item:
            yield Mistake(
                ("ot_coupling",), "contradicts noise_by_item: it chooses an item's noise by what else is in the batch", "conflict"
            )
        for key in ("mask_padding_attention", "use_effective_length_for_schedule"):
            if getattr(self, key) is not None:
                yield Mistake(
                    (key,), "warning: belongs to the model: write it in model.diffusion, so that generation knows it too", "warning"
                )

    def _arc_conflicts(self) -> Iterator[Mistake]:
        configs = self.optimizer_configs
        if configs is None or configs.discriminator is None:
            missing = (
                "optimizer_configs.diffusion and optimizer_configs.discriminator" if configs is None else "optimizer_configs.discriminator"
            )
            yield Mistake((), f"needs {missing}, since arc has two players", "missing")
        elif (configs.diffusion.scheduler is None) != (configs.discriminator.scheduler is None):
            yield Mistake(("optimizer_configs",), "give a scheduler to both optimizers or to none", "conflict")
        for key in ARC_IGNORES:
            if getattr(self, key) != type(self).model_fields[key].default:
                yield Mistake((key,), "warning: has no effect with arc", "warning")


class DiffusionCondInpaintDemo(DiffusionCondDemo):
    """What to fill in while training, and how often. Items and conditions come from the data."""

    num_demos: NonNegativeInt = 8

    def conflicts(self) -> Iterator[Mistake]:
        for key in ("demo_cond", "display_audio_cond", "cond_display_configs"):
            if getattr(self, key):
                yield Mistake((key,), "warning: has no effect: demos of inpainting fill gaps in items of the data", "warning")


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


class PlainOptimizers(Strict):
    """The optimizer of the whole model."""

    diffusion: OptimizerConfig


class PlainDiffusionTraining(DiffusionTraining):
    """What ``training`` of a diffusion model without conditions may say."""

    optimizer_configs: PlainOptimizers | None = None

    def conflicts(self) -> Iterator[Mistake]:
        yield from super().conflicts()
        if self.optimizer_configs is None and self.learning_rate is None:
            yield Mistake((), "needs learning_rate or optimizer_configs", "missing")


class DiffusionUncondTraining(PlainDiffusionTraining, WithAdapter):
    """``training`` of an unconditional diffusion model."""

    pre_encoded: bool = False
    noise_by_item: bool = False
    log_loss_info: bool = True
    log_every_n_steps: PositiveInt = 1
    demo: DiffusionDemo | None = None
    demo_every: PositiveInt | None = None  # where configs had them before there was "demo"
    demo_steps: PositiveInt | None = None
    num_demos: PositiveInt | None = None


class DiffusionAutoencoderTraining(PlainDiffusionTraining, WithAdapter):
    """``training`` of a diffusion autoencoder."""

    refused = NO_SMALL_CODEC
    use_reconstruction_loss: bool = False
    log_loss_info: bool = True
    demo: DiffusionDemo | None = None
