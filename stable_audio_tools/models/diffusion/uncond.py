"""DiffusionModelWrapper: an unconditional backbone and its pretransform as one model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from stable_audio_tools.config.check import parse_model_config
from stable_audio_tools.config.model import DiffusionUncondConfig
from stable_audio_tools.errors import ConfigError
from stable_audio_tools.families import MODELS, UNCOND_BACKBONES
from stable_audio_tools.models.pretransforms.base import Pretransform
from stable_audio_tools.models.pretransforms.build import build_pretransform


class DiffusionModelWrapper(nn.Module):
    """An unconditional (latent) diffusion model.

    Args:
        model: Backbone: (x (B, C, L), t (B,)) -> (B, C, L).
        io_channels: Channels C of what is denoised.
        sample_size: Length it was made for, in audio samples.
        sample_rate: In Hz.
        min_input_length: Audio lengths must be a multiple of this, in samples.
        pretransform: Between audio and what is denoised.
        diffusion_objective: ``"v"``, ``"rectified_flow"`` or ``"rf_denoiser"``.
    """

    def __init__(
        self,
        model: nn.Module,
        io_channels: int,
        sample_size: int | None,
        sample_rate: int,
        min_input_length: int,
        pretransform: Pretransform | None = None,
        diffusion_objective: str = "v",
    ) -> None:
        super().__init__()
        self.model = model
        self.io_channels = io_channels
        self.sample_size = sample_size
        self.sample_rate = sample_rate
        self.min_input_length = min_input_length
        self.pretransform = pretransform
        self.diffusion_objective = diffusion_objective

    @property
    def downsampling_ratio(self) -> int:
        """Audio samples per latent frame; 1 without a pretransform."""
        return self.pretransform.downsampling_ratio if self.pretransform is not None else 1

    def forward(self, x: Tensor, t: Tensor, **kwargs: Any) -> Any:
        """Predict: (B, C, L) and times (B,) in [0, 1] -> (B, C, L); further arguments go to the backbone."""
        return self.model(x, t, **kwargs)

    def generate(self, *args: Any, **kwargs: Any) -> Tensor:
        """See `stable_audio_tools.inference.generation.generate_diffusion_uncond`."""
        from stable_audio_tools.inference.generation import generate_diffusion_uncond

        return generate_diffusion_uncond(self, *args, **kwargs)


@MODELS.register("diffusion_uncond")
def build_diffusion_uncond(config: DiffusionUncondConfig) -> DiffusionModelWrapper:
    """Unconditional (latent) diffusion model. Backbone and pretransform draw their weights in this order."""
    model = config.model
    backbone = UNCOND_BACKBONES.build(model.type, model.config, diffusion_objective=model.diffusion_objective)
    pretransform = build_pretransform(model.pretransform, config.sample_rate) if model.pretransform else None
    ratio = pretransform.downsampling_ratio if pretransform is not None else 1
    return DiffusionModelWrapper(
        backbone,
        io_channels=backbone.io_channels,
        sample_size=config.sample_size,
        sample_rate=config.sample_rate,
        min_input_length=ratio * backbone.length_multiple,
        pretransform=pretransform,
        diffusion_objective=model.diffusion_objective,
    )


def create_diffusion_uncond_from_config(config: Mapping[str, Any]) -> DiffusionModelWrapper:
    """Build an unconditional diffusion model from its config.

    Raises:
        ConfigError: With every mistake, or if it is of another type.
    """
    parsed = parse_model_config(config)
    if not isinstance(parsed, DiffusionUncondConfig):
        raise ConfigError(f"model_type: is {parsed.model_type!r}, but must be 'diffusion_uncond' here; create_model_from_config takes any")
    return build_diffusion_uncond(parsed)
