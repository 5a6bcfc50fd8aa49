"""The convolutional U-Nets of latent diffusion models before transformers: `adp_1d`, `adp_cfg_1d` and `adp_uncond_1d`."""

from stable_audio_tools.models.diffusion.adp.cfg import UNetCFG1d
from stable_audio_tools.models.diffusion.adp.unet import UNet1d
from stable_audio_tools.models.diffusion.adp.wrappers import UNet1DCondWrapper, UNet1DUncondWrapper, UNetCFG1DWrapper

__all__ = ["UNet1DCondWrapper", "UNet1DUncondWrapper", "UNet1d", "UNetCFG1DWrapper", "UNetCFG1d"]
