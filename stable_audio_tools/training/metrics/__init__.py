"""Metrics while training: how near what a model makes comes to real audio, measured every so many steps."""

from stable_audio_tools.training.metrics.callbacks import create_metrics_callback_from_config
from stable_audio_tools.training.metrics.frechet import frechet_distance

__all__ = ["create_metrics_callback_from_config", "frechet_distance"]
