"""Kept import path. These blocks live in `stable_audio_tools.models.diffusion.dau1d` and `stable_audio_tools.models.layers.embeddings`."""

from stable_audio_tools.models.diffusion.dau1d import (
    Downsample1d,
    Downsample1d_2,
    ResConvBlock,
    SelfAttention1d,
    SkipBlock,
    Upsample1d,
    Upsample1d_2,
    expand_to_planes,
)
from stable_audio_tools.models.layers.embeddings import FourierFeatures

__all__ = [
    "Downsample1d", "Downsample1d_2", "FourierFeatures", "ResConvBlock", "SelfAttention1d", "SkipBlock", "Upsample1d", "Upsample1d_2",
    "expand_to_planes",
]  # fmt: skip
