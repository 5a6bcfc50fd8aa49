"""Kept import path. The U-Nets live in `stable_audio_tools.models.diffusion.adp`, `NumberEmbedder` in `models.layers.embeddings`."""

from stable_audio_tools.models.diffusion.adp import UNet1d, UNetCFG1d
from stable_audio_tools.models.layers.embeddings import NumberEmbedder

__all__ = ["NumberEmbedder", "UNet1d", "UNetCFG1d"]
