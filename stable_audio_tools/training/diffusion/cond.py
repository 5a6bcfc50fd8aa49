"""DiffusionCondTrainingWrapper: trains conditional diffusion models."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stable_audio_tools.config.model import DiffusionCondConfig, DiffusionCondInpaintConfig
from stable_audio_tools.config.training.diffusion import DiffusionCondInpaintTraining, DiffusionCondTraining
from stable_audio_tools.errors import DataError
from stable_audio_tools.families import WRAPPERS
from stable_audio_tools.models.diffusion.wrappers import ConditionedDiffusionModelWrapper
from stable_audio_tools.sampling.inpainting import random_inpaint_mask
from stable_audio_tools.training.base import padding_mask_of, unbatch
from stable_audio_tools.training.diffusion.average import FrameWeights, coupled_noise
from stable_audio_tools.training.diffusion.base import DiffusionTrainingWrapper, noise_of_items
from stable_audio_tools.training.diffusion.loss import DiffusionLoss, diffusion_loss
from stable_audio_tools.training.ema import EMA
from stable_audio_tools.training.randomness import isolated_randomness, item_seeds
from stable_audio_tools.training.sections import takes_keys_of

Metadata = Sequence[Mapping[str, Any]]


class Example(NamedTuple):
    """A batch, and what a model is told about it besides the conditions that its own conditioner makes.

    Attributes:
        latents: (B, D, L)
        metadata: One dictionary per item.
        injected: Further conditions by id: what is kept when inpainting.
        content: (B, L), False at padding; None if nobody asks.
        hidden: Arguments of the backbone: the padding that it does not see.
    """

    latents: Tensor
    metadata: Metadata
    injected: dict[str, list[Tensor]]
    content: Tensor | None
    hidden: dict[str, Any]

    @property
    def kept(self) -> Tensor | None:
        """(B, L), True where the model is told the latents."""
        return self.injected["inpaint_mask"][0][:, 0] > 0 if "inpaint_mask" in self.injected else None


@takes_keys_of(DiffusionCondTraining, "training", renamed={"lr": "learning_rate", "inpainting_config": "inpainting"})
class DiffusionCondTrainingWrapper(DiffusionTrainingWrapper):
    """Trains a `ConditionedDiffusionModelWrapper`: backbone, conditioners and, if ``enable_grad``, the pretransform.

    Args:
        model: The model.
        training: The ``training`` section of its config. Its keys may be given as keywords instead, ``learning_rate`` as ``lr`` too.
    """

    model_prefix = "diffusion"
    default_optimizer = "AdamW"

    def __init__(self, model: ConditionedDiffusionModelWrapper, training: DiffusionCondTraining) -> None:
        super().__init__(training.timestep_sampler, training.timestep_sampler_options)
        self.diffusion = model
        self.training_config = training
        for key in ("mask_padding_attention", "use_effective_length_for_schedule"):
            if getattr(training, key) is not None:
                setattr(model, key, getattr(training, key))
        if training.use_ema:
            self.ema_prefix = "diffusion_ema"
            self.diffusion_ema = EMA(model.model)

    @property
    def has_idle_parameters(self) -> bool:
        """Conditioners that the backbone does not listen to, or not to every item's."""
        model = self.diffusion
        heard = {
            *model.cross_attn_cond_ids, *model.global_cond_ids, *model.input_concat_ids, *model.prepend_cond_ids, *model.local_add_cond_ids,
        }  # fmt: skip
        parts = model.conditioner.conditioners if model.conditioner is not None else {}
        unheard = [part for name, part in parts.items() if name not in heard]
        is_unheard = any(parameter.requires_grad for part in unheard for parameter in part.parameters())
        return super().has_idle_parameters or bool(model.modular_local_cond_ids) or is_unheard

    # ---- from a batch to what is trained on ---------------------------------------------------------------------------------------

    def conditions(self, model: ConditionedDiffusionModelWrapper, example: Example) -> dict[str, Any]:
        """What a model is conditioned on: what its conditioner makes of the metadata, and what is injected."""
        made = model.conditioner(example.metadata, self.device) if model.conditioner is not None else {}
        return {**made, **example.injected}

    def _loss_mask(self, metadata: Metadata, length: int) -> Tensor | None:
        """(B, L), True on audio and False on padding; None to count everything."""
        config = self.training_config
        if not config.mask_padding or self.frame_weight is not None or random.random() <= config.mask_padding_dropout:
            return None
        mask = padding_mask_of(metadata, length, self.device)
        if mask is None:
            raise DataError("training.mask_padding needs a 'padding_mask' in the metadata of every item, which this dataset does not give")
        return mask

    @property
    def frame_weight(self) -> float | None:
        """What padding and kept frames count, if they count otherwise than the rest: by default only for models that do not see them."""
        weight = self.training_config.mask_loss_weight
        return 0.0 if weight is None and self.diffusion.mask_padding_attention else weight

    def _content(self, metadata: Metadata, latents: Tensor) -> Tensor:
        """(B, L), False at padding; everything is content if an item does not say."""
        content = padding_mask_of(metadata, latents.shape[-1], latents.device)
        return torch.ones_like(latents[:, 0], dtype=torch.bool) if content is None else content

    def _extended(self, content: Tensor) -> Tensor:
        """Content and, after it, a random piece of the silence that follows: a model that hides padding learns to end."""
        scale = self.training_config.silence_extension_scale_seconds * self.diffusion.sample_rate / self.diffusion.downsampling_ratio
        if scale == 0 or not self.diffusion.mask_padding_attention:
            return content
        frames = content.sum(dim=1) + torch.empty(len(content), device=content.device).exponential_(1 / scale).long()
        return torch.arange(content.shape[1], device=content.device) < frames[:, None]  # (B, L)

    def _shift_length(self, metadata: Metadata, latents: Tensor) -> int | Tensor:
        """What shifts of times go by: L, or the latent frames of each item."""
        if not self.diffusion.use_effective_length_for_schedule:
            return latents.shape[-1]
        lengths = self.diffusion.effective_lengths(metadata)
        if lengths is None:
            return self._content(metadata, latents).sum(dim=-1).clamp(min=1)
        return torch.tensor(lengths, device=latents.device)

    def _times(self, metadata: Metadata, latents: Tensor, seeds: Sequence[int] | None) -> Tensor:
        """Times (B,), shifted if the model says so."""
        t = self.timestep_sampler(latents.shape[0], device=self.device) if seeds is None else self.times_of_items(seeds)
        if self.diffusion.dist_shift is not None:
            t = self.diffusion.dist_shift.shift(t, self._shift_length(metadata, latents))
        share = self.training_config.p_one_shot
        if share > 0:
            chance = torch.rand_like(t) if seeds is None else torch.tensor([random.Random(seed).random() for seed in seeds]).to(t)
            t = torch.where(chance < share, torch.ones_like(t), t)
        return t

    def _noise(self, latents: Tensor, seeds: Sequence[int] | None) -> Tensor:
        noise = torch.randn_like(latents) if seeds is None else noise_of_items(latents, seeds)
        return coupled_noise(latents, noise) if self.training_config.ot_coupling else noise

    def _inpaint_mask(self, latents: Tensor, content: Tensor, seeds: Sequence[int] | None) -> Tensor:
        """(B, 1, L), 1 is what the model is told."""
        assert self.training_config.inpainting is not None
        options = self.training_config.inpainting.mask_kwargs.model_dump()
        options["mask_padding"] = self.diffusion.mask_padding_attention
        if seeds is None:
            return random_inpaint_mask(latents, content, **options)[1]
        masks: list[Tensor] = []
        for index, seed in enumerate(seeds):
            with isolated_randomness(seed):
                masks.append(random_inpaint_mask(latents[index, None], content[index, None], **options)[1])
        return torch.cat(masks)

    def example_of(self, metadata: Metadata, latents: Tensor, seeds: Sequence[int] | None = None) -> Example:
        """A batch as a model sees it. ``seeds`` of the items, if what is drawn is to depend on them."""
        config, hides = self.training_config, self.diffusion.mask_padding_attention
        content: Tensor | None = None
        if config.inpainting is not None or hides or self.frame_weight is not None or config.loss_normalization != "none":
            content = self._extended(self._content(metadata, latents))
        injected: dict[str, list[Tensor]] = {}
        if config.inpainting is not None:
            assert content is not None
            injected = _with_gaps(latents, self._inpaint_mask(latents, content, seeds))
        return Example(latents, metadata, injected, content, {"padding_mask": content} if hides and content is not None else {})

    def _average(self, example: Example) -> FrameWeights | None:
        """How errors are averaged, if it is not simply over everything."""
        config = self.training_config
        if self.frame_weight is None and config.loss_normalization == "none":
            return None
        assert example.content is not None
        weight = self.frame_weight
        if weight is None:
            weight = 0.0 if config.mask_padding else 1.0
        hides = self.diffusion.mask_padding_attention
        return FrameWeights(example.content, example.kept, weight, hides, config.loss_normalization, config.loss_norm_eps)

    # ---- steps --------------------------------------------------------------------------------------------------------------------

    def step_loss(self, batch: Any, batch_idx: int) -> tuple[DiffusionLoss, Tensor]:
        """The loss of one batch, and its latents (B, D, L)."""
        reals, metadata = unbatch(batch)
        config, seeds = self.training_config, None
        if config.noise_by_item:
            seeds = self.seeds_of(metadata, batch_idx)
        conditioning = self.diffusion.conditioner(metadata, self.device) if self.diffusion.conditioner is not None else {}
        latents = self.latents_of(reals) if seeds is None else self.latents_of_items(reals, seeds)
        mask = self._loss_mask(metadata, latents.shape[-1])
        t = self._times(metadata, latents, seeds)
        noise = self._noise(latents, seeds)
        example = self.example_of(metadata, latents, seeds)
        result = diffusion_loss(
            self.diffusion,
            latents,
            t,
            {**conditioning, **example.injected},
            mask=mask,
            noise=noise,
            average=self._average(example),
            cfg_dropout_prob=config.cfg_dropout_prob,
            **example.hidden,
        )
        return result, latents

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The loss of one batch."""
        result, latents = self.step_loss(batch, batch_idx)
        self.log_training(result.loss, {"mse_loss": result.loss}, latents)
        self.log_by_time(result)
        return result.loss

    def reproduction_error(self, batch: Any) -> Tensor:
        return self.step_loss(batch, 0)[0].unexplained()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Log the loss at fixed times with noise fixed per item, so that the number moves only when the model does."""
        reals, metadata = unbatch(batch)
        seeds = item_seeds(metadata, position=batch_idx * len(reals))
        with isolated_randomness(batch_idx):
            conditioning = self.diffusion.conditioner(metadata, self.device) if self.diffusion.conditioner is not None else {}
        latents = self.latents_of_items(reals, seeds)
        if self.training_config.inpainting is not None:  # the second half is to be filled in
            is_kept = torch.arange(latents.shape[-1], device=latents.device) < latents.shape[-1] // 2
            conditioning = {**conditioning, **_with_gaps(latents, is_kept.to(latents.dtype).expand(latents.shape[0], 1, -1))}
        hidden: dict[str, Any] = {"padding_mask": self._content(metadata, latents)} if self.diffusion.mask_padding_attention else {}

        def loss_of(t: Tensor, noise: Tensor) -> Tensor:
            return diffusion_loss(self.diffusion, latents, t, conditioning, noise=noise, **hidden).loss

        self.log_validation(latents, seeds, loss_of)


def _with_gaps(latents: Tensor, mask: Tensor) -> dict[str, list[Tensor]]:
    """What an inpainting model gets to see of the latents: ``mask`` (B, 1, L) is 1 there."""
    return {"inpaint_mask": [mask], "inpaint_masked_input": [latents * mask]}


@takes_keys_of(DiffusionCondInpaintTraining, "training", renamed={"lr": "learning_rate", "inpainting_config": "inpainting"})
class DiffusionCondInpaintTrainingWrapper(DiffusionCondTrainingWrapper):
    """Trains an inpainting model: the same, with a mask in every step.

    Args:
        model: The model, with the conditions ``inpaint_mask`` and ``inpaint_masked_input``.
        training: The ``training`` section of its config. Its keys may be given as keywords instead, ``learning_rate`` as ``lr`` too.
    """

    def __init__(self, model: ConditionedDiffusionModelWrapper, training: DiffusionCondInpaintTraining) -> None:
        super().__init__(model, training)


@WRAPPERS.register("diffusion_cond")
def wrap_diffusion_cond(model: ConditionedDiffusionModelWrapper, config: DiffusionCondConfig) -> DiffusionCondTrainingWrapper:
    """The training wrapper of a conditional diffusion model."""
    assert config.training is not None
    return DiffusionCondTrainingWrapper(model, config.training)


@WRAPPERS.register("diffusion_cond_inpaint")
def wrap_diffusion_cond_inpaint(
    model: ConditionedDiffusionModelWrapper, config: DiffusionCondInpaintConfig
) -> DiffusionCondInpaintTrainingWrapper:
    """The training wrapper of an inpainting model."""
    assert config.training is not None
    return DiffusionCondInpaintTrainingWrapper(model, config.training)
