"""Training: the only package that imports Lightning."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stable_audio_tools.optional import lazy

if TYPE_CHECKING:
    from stable_audio_tools.training.factory import create_demo_callback_from_config, create_training_wrapper_from_config
    from stable_audio_tools.training.metrics import create_metrics_callback_from_config

__all__ = ["create_demo_callback_from_config", "create_metrics_callback_from_config", "create_training_wrapper_from_config"]
__getattr__ = lazy(
    __name__,
    create_demo_callback_from_config="stable_audio_tools.training.factory",
    create_metrics_callback_from_config="stable_audio_tools.training.metrics",
    create_training_wrapper_from_config="stable_audio_tools.training.factory",
)
