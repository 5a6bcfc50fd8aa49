"""Training diffusion models."""

from stable_audio_tools.training.diffusion.cond import DiffusionCondTrainingWrapper

__all__ = ["DiffusionCondTrainingWrapper"]
