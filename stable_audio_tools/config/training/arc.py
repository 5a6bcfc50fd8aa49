"""``training.arc``: adversarial relativistic-contrastive post-training, which makes a flow model generate in few steps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from stable_audio_tools.config.base import Component, NonNegativeFloat, NonNegativeInt, PositiveInt, Probability, Strict, part_mistakes
from stable_audio_tools.families import TIMESTEPS
from stable_audio_tools.registry import Mistake


class ODEWarmup(Strict):
    """Before the adversary comes in, the model learns to jump to where the teacher's path from noise to data ends."""

    warmup_steps: NonNegativeInt = 0
    refresh_rate: PositiveInt = 1
    sampling_steps: PositiveInt = 20
    cfg: float = 4.0
    sampler: Literal["dpmpp"] = "dpmpp"


class ARCNoise(Strict):
    """Which times the generator starts from, and at which ones the adversary looks: names of timestep samplers."""

    generator: str = "uniform"
    discriminator: str = "uniform"
    refused = {"clap": "there is no loss of CLAP, which would look at such times"}

    def conflicts(self) -> Iterator[Mistake]:
        for key in ("generator", "discriminator"):
            yield from part_mistakes(TIMESTEPS, getattr(self, key), (key,), None, ())


class ARCWeights(Strict):
    """Weights of the losses."""

    generator: NonNegativeFloat = 1.0
    discriminator: NonNegativeFloat = 1.0
    contrastive: NonNegativeFloat = 1.0


class ARCDiscriminator(Component):
    """The adversary: a diffusion model up to the block ``dit_hidden_layer``, and a head that scores what that block says."""

    family: ClassVar[str] = "ARC_HEADS"
    absent = {
        "dilated_conv": "there is no such head; convnext sees as far",
        "transformer": "there is no such head; hidden states come from a transformer already, so conv or convnext will do",
        "multi_scale": "there is no such head; one of several scales is convnext with other strides",
    }
    type: str = "convnext"
    dit_hidden_layer: NonNegativeInt
    loss_type: Literal["relativistic"] = "relativistic"
    weights: ARCWeights = ARCWeights()
    disc_hinge_loss: bool = False
    contrastive: bool = False
    include_grad_penalties: bool = False
    include_r2_penalty: bool = True
    grad_penalty_weight: NonNegativeFloat = 100.0
    freeze_backbone: bool = False
    contrastive_beta: float = 1.0
    feature_matching_weight: NonNegativeFloat = 0.0
    logit_center_weight: NonNegativeFloat = 0.0
    reset_every: PositiveInt | None = None
    layer_combine_mode: Literal["concat", "stack"] = "concat"
    refused = {
        "contrastive_beta": "the contrastive loss has the slope 1",
        "feature_matching_weight": "the generator is not compared with data by what the adversary's layers say, only by its scores",
        "logit_center_weight": "scores are not pulled to 0; include_grad_penalties keeps them small",
        "reset_every": "the adversary is never begun anew in a run",
        "layer_combine_mode": "one hidden layer is scored, so there is nothing to combine",
        "lora": "the adversary is trained whole, or with freeze_backbone its head alone",
    }


class ARC(Strict):
    """Adversarial post-training. Source: Novack et al. 2025, arXiv:2505.08175."""

    discriminator: ARCDiscriminator
    use_model_as_discriminator: bool = False
    discriminator_base_model: dict[str, Any] | None = None
    discriminator_base_ckpt: str | None = None
    use_model_as_teacher: bool = False
    teacher_model: dict[str, Any] | None = None
    teacher_model_ckpt: str | None = None
    ode_warmup: ODEWarmup = ODEWarmup()
    noise_dist: ARCNoise = ARCNoise()
    disc_update_interval: Annotated[int, Field(ge=2)] = 2
    forward_sample_prob: Probability = 0.0
    denoiser_loss_t_exponent: NonNegativeFloat = 0.0
    denoiser_loss_weight: float | None = None
    sampling: dict[str, Any] = {}
    refused = {
        "lora": "post-training changes the whole model; merge an adapter into it first, with 'sat lora merge'",
        "reuse_discriminator_as_teacher": "the teacher has weights of its own: use_model_as_teacher or teacher_model",
        "clap_config": "there is no loss of CLAP; contrastive makes the adversary look at prompts",
        "clap_loss_type": "there is no loss of CLAP; contrastive makes the adversary look at prompts",
    }

    def conflicts(self) -> Iterator[Mistake]:
        yield from self._source_conflicts("use_model_as_discriminator", "discriminator_base_model", "discriminator_base_ckpt")
        yield from self._source_conflicts("use_model_as_teacher", "teacher_model", "teacher_model_ckpt")
        if not self.use_model_as_discriminator and self.discriminator_base_model is None:
            yield Mistake((), "needs use_model_as_discriminator or discriminator_base_model: what scores are made from", "missing")
        for key in ("sampling", "denoiser_loss_weight"):
            if getattr(self, key):
                yield Mistake((key,), "warning: has no effect", "warning")

    def _source_conflicts(self, use_model: str, model: str, checkpoint: str) -> Iterator[Mistake]:
        config = getattr(self, model)
        if config is not None:
            from stable_audio_tools.config.check import check_model_config  # which imports this module

            yield from (mistake.under(model) for mistake in check_model_config(config))
            if getattr(self, use_model):
                yield Mistake((model,), f"contradicts {use_model}, which is true: give one of them", "conflict")
        elif getattr(self, checkpoint) is not None and not getattr(self, use_model):
            yield Mistake((checkpoint,), f"needs {use_model} or {model}, which say what model it is of", "conflict")


class Trim(Strict):
    """How often batches are cut to the length of one of their items, which the latents then mostly fill."""

    trim_prob: Probability = 0.0
    type: Literal["random_item"] = "random_item"
