"""Training of language models."""

from stable_audio_tools.training.lm.wrapper import AudioLanguageModelTrainingWrapper

__all__ = ["AudioLanguageModelTrainingWrapper"]
