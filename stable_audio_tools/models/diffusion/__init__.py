"""Diffusion models: networks that turn noise into latents."""

from stable_audio_tools.models.diffusion.adp import UNet1DCondWrapper, UNet1DUncondWrapper, UNetCFG1DWrapper
from stable_audio_tools.models.diffusion.dau1d import DAU1DCondWrapper, DiffusionAttnUnet1D
from stable_audio_tools.models.diffusion.dit import DiffusionTransformer
from stable_audio_tools.models.diffusion.dit_cond import DiTWrapper
from stable_audio_tools.models.diffusion.dit_uncond import DiTUncondWrapper
from stable_audio_tools.models.diffusion.uncond import DiffusionModelWrapper, create_diffusion_uncond_from_config
from stable_audio_tools.models.diffusion.wrappers import ConditionedDiffusionModelWrapper, create_diffusion_cond_from_config

__all__ = [
    "ConditionedDiffusionModelWrapper", "DAU1DCondWrapper", "DiTUncondWrapper", "DiTWrapper", "DiffusionAttnUnet1D",
    "DiffusionModelWrapper", "DiffusionTransformer", "UNet1DCondWrapper", "UNet1DUncondWrapper", "UNetCFG1DWrapper",
    "create_diffusion_cond_from_config", "create_diffusion_uncond_from_config",
]  # fmt: skip
