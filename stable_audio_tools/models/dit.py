"""Kept import path; the class lives in `stable_audio_tools.models.diffusion.dit`."""

from stable_audio_tools.models.diffusion.dit import DiffusionTransformer

__all__ = ["DiffusionTransformer"]
