"""Model configs of unconditional diffusion models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from stable_audio_tools.config.base import Component
from stable_audio_tools.config.model.base import ModelConfig
from stable_audio_tools.config.model.diffusion_cond import objective_conflicts
from stable_audio_tools.config.model.parts import PretransformBlock, audio_of, backbone_multiple, product_of, ratio_of
from stable_audio_tools.config.training.diffusion import DiffusionUncondTraining
from stable_audio_tools.registry import Mistake


class DiffusionUncondModel(Component):
    """``model`` of an unconditional diffusion model: its backbone, and what it works on."""

    family: ClassVar[str] = "UNCOND_BACKBONES"
    pretransform: PretransformBlock | None = None
    diffusion_objective: str = "v"

    @property
    def io_channels(self) -> int | None:
        """Channels of what is denoised, if they can be told."""
        return self.value(self.fact("channels_key") or "")

    def conflicts(self) -> Iterator[Mistake]:
        yield from objective_conflicts(self.diffusion_objective, self.config)
        width = self.pretransform.width() if self.pretransform else None
        if self.pretransform is not None and None not in (width, self.io_channels) and width != self.io_channels:
            source = self.pretransform.width_source()
            message = f"is {self.io_channels}, but the pretransform gives {width} channels (its {source})"
            yield Mistake(("config", self.fact("channels_key")), message, "conflict")

    def input_multiple(self) -> int | None:
        """Audio lengths that the model takes are multiples of this, in samples."""
        return product_of(ratio_of(self.pretransform), backbone_multiple(self))


class DiffusionUncondConfig(ModelConfig):
    """An unconditional diffusion model."""

    model_type: Literal["diffusion_uncond"]  # pyright: ignore[reportIncompatibleVariableOverride]
    model: DiffusionUncondModel
    training: DiffusionUncondTraining | None = None

    def input_multiple(self) -> int | None:
        return self.model.input_multiple()

    def audio_source(self) -> tuple[int | None, str]:
        is_latent = self.training is not None and self.training.pre_encoded
        return audio_of(self.model.pretransform, None if is_latent else self.model.io_channels)
