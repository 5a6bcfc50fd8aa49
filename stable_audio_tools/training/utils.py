"""Kept import path; see `stable_audio_tools.training.optimizers`, `schedulers` and `log_sinks`, and `stable_audio_tools.models.utils`."""

from stable_audio_tools.optional import moved
from stable_audio_tools.training.log_sinks import log_audio, log_image, log_metric
from stable_audio_tools.training.optimizers import create_optimizer_from_config
from stable_audio_tools.training.schedulers import create_scheduler_from_config

__all__ = ["create_optimizer_from_config", "create_scheduler_from_config", "log_audio", "log_image", "log_metric"]
__getattr__ = moved(__name__, copy_state_dict="stable_audio_tools.models.utils.copy_state_dict")
