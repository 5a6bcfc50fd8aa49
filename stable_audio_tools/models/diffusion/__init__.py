"""Diffusion models: networks that turn noise into latents."""

from stable_audio_tools.models.diffusion.dit import DiffusionTransformer, DiTWrapper
from stable_audio_tools.models.diffusion.wrappers import ConditionedDiffusionModelWrapper

__all__ = ["ConditionedDiffusionModelWrapper", "DiTWrapper", "DiffusionTransformer"]
