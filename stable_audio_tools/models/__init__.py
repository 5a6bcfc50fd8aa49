"""Networks, and how configs become networks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stable_audio_tools.optional import lazy

if TYPE_CHECKING:
    from stable_audio_tools.models.factory import create_model_from_config, create_model_from_config_path

__all__ = ["create_model_from_config", "create_model_from_config_path"]
__getattr__ = lazy(
    __name__,
    create_model_from_config="stable_audio_tools.models.factory",
    create_model_from_config_path="stable_audio_tools.models.factory",
)
