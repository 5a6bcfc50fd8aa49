"""A diffusion transformer that knows nothing but the time."""

from __future__ import annotations

from typing import Annotated, Any

from torch import Tensor, nn

from stable_audio_tools.config.base import PositiveInt
from stable_audio_tools.errors import ConfigError
from stable_audio_tools.families import UNCOND_BACKBONES
from stable_audio_tools.models.diffusion.dit import DiffusionTransformer
from stable_audio_tools.models.layers.parameters import halve_parameters
from stable_audio_tools.registry import Options

RULES = (
    ("multiple", "embed_dim", "num_heads"),
    ("needs", "timestep_cond_type", "input_concat", "timestep_embed_dim"),
    ("odd", "ff_kwargs.conv_kernel_size", "ff_kwargs.use_conv"),
)


@UNCOND_BACKBONES.register("dit", channels_key="in_channels", multiple_keys=("patch_size",), rules=RULES)
class DiTUncondWrapper(nn.Module):
    """A `DiffusionTransformer` without conditions.

    Args:
        in_channels: Channels of what is denoised.
        diffusion_objective: What is predicted.
        io_channels: Another name for ``in_channels``; may be given if it is the same.
        **dit: Options of the `DiffusionTransformer`.
    """

    def __init__(
        self,
        in_channels: PositiveInt,
        diffusion_objective: str = "v",
        *,
        io_channels: PositiveInt | None = None,
        **dit: Annotated[Any, Options("DiffusionTransformer")],
    ) -> None:
        super().__init__()
        if io_channels not in (None, in_channels):
            raise ConfigError(f"dit: io_channels is {io_channels}, but in_channels is {in_channels}; remove io_channels")
        self.io_channels = in_channels
        self.model = DiffusionTransformer(io_channels=in_channels, diffusion_objective=diffusion_objective, **dit)
        halve_parameters(self.model)

    @property
    def length_multiple(self) -> int:
        """Lengths must be a multiple of this."""
        return self.model.patch_size

    def forward(self, x: Tensor, t: Tensor, **options: Any) -> Any:
        """(B, C, L) and times (B,) -> (B, C, L); further arguments go to the `DiffusionTransformer`."""
        return self.model(x, t, **options)
