"""ConditionedDiffusionModelWrapper: backbone, conditioners and pretransform as one model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from stable_audio_tools.config.check import parse_model_config
from stable_audio_tools.config.model import DiffusionCondConfig, DiffusionCondInpaintConfig, shift_of
from stable_audio_tools.errors import ConfigError
from stable_audio_tools.families import BACKBONES, MODELS, SHIFTS
from stable_audio_tools.models.conditioners.base import as_number, unwrapped
from stable_audio_tools.models.conditioners.multi import MultiConditioner, build_multi_conditioner
from stable_audio_tools.models.diffusion.inputs import Conditions, channels_of, require_conditions, sequence_of, vector_of
from stable_audio_tools.models.pretransforms.base import Pretransform
from stable_audio_tools.models.pretransforms.build import build_pretransform
from stable_audio_tools.sampling.shifts import LogSNRShift, Shift


def seconds_of(metadata: Sequence[Mapping[str, Any]]) -> list[float]:
    """``seconds_total`` of items that all have it."""
    return [as_number(unwrapped(item["seconds_total"]), "seconds_total") for item in metadata]


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
        local_add_cond_ids: Conditions per latent frame, concatenated along channels, embedded and added in every block.
        modular_local_cond_ids: Further ones, each embedded for itself, which may be missing.
        sampling_distribution_shift_options: Options of the shift of sampling times; None is what ``sampling_version`` has.
        mask_padding_attention: What is after an item's ``seconds_total`` is hidden from it.
        use_effective_length_for_schedule: Shifts go by an item's ``seconds_total`` instead of the length of the latents.
        sampling_version: Whose numbers generation has where versions differ, ``"0.0.19"`` or ``"0.0.20"``: see `DiffusionBlock`.
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
        local_add_cond_ids: Sequence[str] = (),
        modular_local_cond_ids: Sequence[str] = (),
        sampling_distribution_shift_options: Mapping[str, Any] | None = None,
        mask_padding_attention: bool = False,
        use_effective_length_for_schedule: bool = False,
        sampling_version: str = "0.0.19",
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
        self.local_add_cond_ids = list(local_add_cond_ids)
        self.modular_local_cond_ids = list(modular_local_cond_ids)
        self.mask_padding_attention = mask_padding_attention
        self.use_effective_length_for_schedule = use_effective_length_for_schedule
        self.sampling_version = sampling_version
        self.dist_shift: Shift | None = None
        if distribution_shift_options is not None:
            self.dist_shift = SHIFTS.build(*shift_of(distribution_shift_options))
        self.sampling_dist_shift: Shift | None = None
        if sampling_distribution_shift_options is not None:
            self.sampling_dist_shift = SHIFTS.build(*shift_of(sampling_distribution_shift_options))
        elif sampling_version != "0.0.19" and diffusion_objective != "v":
            self.sampling_dist_shift = LogSNRShift(rate=0.0)

    @property
    def downsampling_ratio(self) -> int:
        """Audio samples per latent frame; 1 without a pretransform."""
        return self.pretransform.downsampling_ratio if self.pretransform is not None else 1

    def get_conditioning_inputs(self, conditioning_tensors: Conditions, negative: bool = False) -> dict[str, Any]:
        """Sort conditions by the way they reach the backbone.

        Args:
            conditioning_tensors: Id -> (embedding, mask), or a list with the embedding alone, for conditions that need no mask.
            negative: Name the result for guidance to push away from.

        Returns:
            Keyword arguments of the backbone.

        Raises:
            ConfigError: If a condition is missing, or conditions are for different numbers of items.
        """
        wanted = (self.cross_attn_cond_ids, self.global_cond_ids, self.input_concat_ids, self.prepend_cond_ids, self.local_add_cond_ids)
        require_conditions(conditioning_tensors, [name for ids in wanted for name in ids])
        cross_attn, cross_attn_mask = sequence_of(conditioning_tensors, self.cross_attn_cond_ids)
        prepend, prepend_mask = sequence_of(conditioning_tensors, self.prepend_cond_ids)
        global_cond = vector_of(conditioning_tensors, self.global_cond_ids)
        input_concat = channels_of(conditioning_tensors, self.input_concat_ids)
        if negative:
            return {
                "negative_cross_attn_cond": cross_attn,
                "negative_cross_attn_mask": cross_attn_mask,
                "negative_global_cond": global_cond,
                "negative_input_concat_cond": input_concat,
            }
        inputs: dict[str, Any] = {
            "cross_attn_cond": cross_attn,
            "cross_attn_mask": cross_attn_mask,
            "global_cond": global_cond,
            "input_concat_cond": input_concat,
            "prepend_cond": prepend,
            "prepend_cond_mask": prepend_mask,
        }
        if self.local_add_cond_ids:  # only backbones that have such a condition know the argument
            inputs["local_add_cond"] = channels_of(conditioning_tensors, self.local_add_cond_ids)
        if self.modular_local_cond_ids:
            given = [name for name in self.modular_local_cond_ids if name in conditioning_tensors]
            inputs["modular_local_cond"] = {name: conditioning_tensors[name][0] for name in given}
        return inputs

    def effective_lengths(self, metadata: Sequence[Mapping[str, Any]] | None) -> list[int] | None:
        """Latent frames that each item's ``seconds_total`` takes; None if an item has none."""
        if not metadata or any("seconds_total" not in item for item in metadata):
            return None
        return [max(1, -(-int(seconds * self.sample_rate) // self.downsampling_ratio)) for seconds in seconds_of(metadata)]

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

    def generate_inpaint(self, *args: Any, **kwargs: Any) -> Tensor:
        """See `stable_audio_tools.inference.generation.generate_diffusion_cond_inpaint`."""
        from stable_audio_tools.inference.generation import generate_diffusion_cond_inpaint

        return generate_diffusion_cond_inpaint(self, *args, **kwargs)


@MODELS.register("diffusion_cond")
def build_diffusion_cond(config: DiffusionCondConfig) -> ConditionedDiffusionModelWrapper:
    """Diffusion model with conditions, of audio itself or of the latents of a pretransform.

    Backbone, pretransform and conditioners draw their weights in this order.
    """
    model, diffusion = config.model, config.model.diffusion
    modular = [item.model_dump() for item in diffusion.modular_local_cond_configs]
    backbone = BACKBONES.build(
        diffusion.type,
        diffusion.config,
        diffusion_objective=diffusion.diffusion_objective,
        modular_local_cond_configs=modular or None,
    )
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
        local_add_cond_ids=diffusion.local_add_cond_ids,
        modular_local_cond_ids=[item["id"] for item in modular],
        sampling_distribution_shift_options=diffusion.sampling_distribution_shift_options,
        mask_padding_attention=diffusion.mask_padding_attention,
        use_effective_length_for_schedule=diffusion.use_effective_length_for_schedule,
        sampling_version=diffusion.version(),
    )


@MODELS.register("diffusion_cond_inpaint")
def build_diffusion_cond_inpaint(config: DiffusionCondInpaintConfig) -> ConditionedDiffusionModelWrapper:
    """Conditional (latent) diffusion model that fills gaps: its conditions also say what to keep."""
    return build_diffusion_cond(config)


def create_diffusion_cond_from_config(config: Mapping[str, Any]) -> ConditionedDiffusionModelWrapper:
    """Build a conditional diffusion model from its config.

    Raises:
        ConfigError: With every mistake, or if it is of another type.
    """
    parsed = parse_model_config(config)
    if not isinstance(parsed, DiffusionCondConfig):
        raise ConfigError(f"model_type: is {parsed.model_type!r}, but must be 'diffusion_cond' here; create_model_from_config takes any")
    return build_diffusion_cond(parsed)
