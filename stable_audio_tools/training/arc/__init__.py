"""ARC: adversarial relativistic-contrastive post-training."""

from stable_audio_tools.training.arc.wrapper import ARCTrainingWrapper

__all__ = ["ARCTrainingWrapper"]
