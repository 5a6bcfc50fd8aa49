"""Training autoencoders."""

from stable_audio_tools.training.autoencoders.wrapper import AutoencoderTrainingWrapper

__all__ = ["AutoencoderTrainingWrapper"]
