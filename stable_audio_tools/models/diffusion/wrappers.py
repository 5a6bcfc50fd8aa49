"""ConditionedDiffusionModelWrapper: backbone, conditioners and pretransform as one model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from stable_audio_tools.config.model import DiffusionCondConfig, shift_of
from stable_audio_tools.families import BACKBONES, MODELS, SHIFTS
from stable_audio_tools.models.conditioners.multi import MultiConditioner, build_multi_conditioner
from stable_audio_tools.models.diffusion.inputs import Conditions, require_conditions, sequence_of
from stable_audio_tools.models.pretransforms.base import Pretransform
from stable_audio_tools.models.pretransforms.build import build_pretransform
from stable_audio_tools.sampling.shifts import DistributionShift


class ConditionedDiffusionModelWrapper(nn.Module):
    """A conditional (latent) diffusion model.

    Args:
        model: Backbone; see `DiTWrapper.forward` for what it takes.
        conditioner: From metadata to conditions; None if conditions are given as tensors.
        io_channels: Channels of what is denoised.
        sample_rate: In Hz.
        min_input_length: Audio lengths must be a multiple of this, in samples.
        diffusion_objective: ``"v"``, ``"rectified_flow"`` or ``"rf_denoiser"``.
        distribution_shift_options: Options of the shift of training times; ``type`` names it.
        pretransform: Between audio and what is denoised.
        cross_attn_cond_ids: Conditions attended to, concatenated along the sequence.
        global_cond_ids: Conditions for the whole sequence, concatenated along channels.
        input_concat_ids: Conditions concatenated to the input's channels.
        prepend_cond_ids: Conditions put before the sequence.
    """

    def __init__(
        self,
        model: nn.Module,
        conditioner: MultiConditioner | None,
        io_channels: int,
        sample_rate: int,
        min_input_length: int,
        diffusion_objective: str = "v",
        distribution_shift_options: Mapping[str, Any] | None = None,
        pretransform: Pretransform | None = None,
        cross_attn_cond_ids: Sequence[str] = (),
        global_cond_ids: Sequence[str] = (),
        input_concat_ids: Sequence[str] = (),
        prepend_cond_ids: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.model = model
        self.conditioner = conditioner
        self.io_channels = io_channels
        self.sample_rate = sample_rate
        self.min_input_length = min_input_length
        self.diffusion_objective = diffusion_objective
        self.pretransform = pretransform
        self.cross_attn_cond_ids = list(cross_attn_cond_ids)
        self.global_cond_ids = list(global_cond_ids)
        self.input_concat_ids = list(input_concat_ids)
        self.prepend_cond_ids = list(prepend_cond_ids)
        self.dist_shift: DistributionShift | None = None
        if distribution_shift_options is not None:
            self.dist_shift = SHIFTS.build(*shift_of(distribution_shift_options))

    @property
    def downsampling_ratio(self) -> int:
        """Audio samples per latent frame; 1 without a pretransform."""
        return self.pretransform.downsampling_ratio if self.pretransform is not None else 1

    def get_conditioning_inputs(self, conditioning_tensors: Conditions, negative: bool = False) -> dict[str, Tensor | None]:
        """Sort conditions by the way they reach the backbone.

        Args:
            conditioning_tensors: Id -> (embedding, mask), or a list with the embedding alone, for conditions that need no mask.
            negative: Name the result for guidance to push away from.

        Returns:
            Keyword arguments of the backbone.

        Raises:
            ConfigError: If a condition is missing.
        """
        require_conditions(
            conditioning_tensors, [*self.cross_attn_cond_ids, *self.global_cond_ids, *self.input_concat_ids, *self.prepend_cond_ids]
        )
        cross_attn, cross_attn_mask = sequence_of(conditioning_tensors, self.cross_attn_cond_ids)
        prepend, prepend_mask = sequence_of(conditioning_tensors, self.prepend_cond_ids)
        global_cond: Tensor | None = None
        if self.global_cond_ids:
            global_cond = torch.cat([conditioning_tensors[name][0] for name in self.global_cond_ids], dim=-1)
            if global_cond.dim() == 3:
                global_cond = global_cond.squeeze(1)  # (B, G)
        input_concat: Tensor | None = None
        if self.input_concat_ids:
            input_concat = torch.cat([conditioning_tensors[name][0] for name in self.input_concat_ids], dim=1)  # (B, C, L)
        if negative:
            return {
                "negative_cross_attn_cond": cross_attn,
                "negative_cross_attn_mask": cross_attn_mask,
                "negative_global_cond": global_cond,
                "negative_input_concat_cond": input_concat,
            }
        return {
            "cross_attn_cond": cross_attn,
            "cross_attn_mask": cross_attn_mask,
            "global_cond": global_cond,
            "input_concat_cond": input_concat,
            "prepend_cond": prepend,
            "prepend_cond_mask": prepend_mask,
        }

    def forward(self, x: Tensor, t: Tensor, cond: Conditions, **kwargs: Any) -> Any:
        """Predict.

        Args:
            x: Noisy latents (B, D, L).
            t: Times (B,) in [0, 1].
            cond: What the conditioner returned.
            **kwargs: For the backbone.

        Returns:
            (B, D, L)
        """
        return self.model(x, t, **self.get_conditioning_inputs(cond), **kwargs)

    def generate(self, *args: Any, **kwargs: Any) -> Tensor:
        """See `stable_audio_tools.inference.generation.generate_diffusion_cond`."""
        from stable_audio_tools.inference.generation import generate_diffusion_cond

        return generate_diffusion_cond(self, *args, **kwargs)


@MODELS.register("diffusion_cond")
def build_diffusion_cond(config: DiffusionCondConfig) -> ConditionedDiffusionModelWrapper:
    """Build a conditional diffusion model. Backbone, pretransform and conditioners draw their weights in this order."""
    model, diffusion = config.model, config.model.diffusion
    backbone = BACKBONES.build(diffusion.type, diffusion.config, diffusion_objective=diffusion.diffusion_objective)
    pretransform = build_pretransform(model.pretransform, config.sample_rate) if model.pretransform else None
    ratio = pretransform.downsampling_ratio if pretransform is not None else 1
    return ConditionedDiffusionModelWrapper(
        backbone,
        build_multi_conditioner(model.conditioning, pretransform) if model.conditioning else None,
        io_channels=model.io_channels,
        sample_rate=config.sample_rate,
        min_input_length=ratio * backbone.length_multiple,
        diffusion_objective=diffusion.diffusion_objective,
        distribution_shift_options=diffusion.distribution_shift_options,
        pretransform=pretransform,
        cross_attn_cond_ids=diffusion.cross_attention_cond_ids,
        global_cond_ids=diffusion.global_cond_ids,
        input_concat_ids=diffusion.input_concat_ids,
        prepend_cond_ids=diffusion.prepend_cond_ids,
    )
