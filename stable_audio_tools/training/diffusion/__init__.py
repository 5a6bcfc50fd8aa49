"""Training diffusion models."""

from stable_audio_tools.training.diffusion.autoencoder import DiffusionAutoencoderTrainingWrapper
from stable_audio_tools.training.diffusion.cond import DiffusionCondTrainingWrapper
from stable_audio_tools.training.diffusion.uncond import DiffusionUncondTrainingWrapper

__all__ = ["DiffusionAutoencoderTrainingWrapper", "DiffusionCondTrainingWrapper", "DiffusionUncondTrainingWrapper"]
