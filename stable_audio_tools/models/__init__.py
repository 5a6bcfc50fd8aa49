"""Networks, and how configs become networks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stable_audio_tools.optional import lazy

if TYPE_CHECKING:
    from stable_audio_tools.models.factory import create_model_from_config, create_model_from_config_path
    from stable_audio_tools.models.pretrained import get_pretrained_model

__all__ = ["create_model_from_config", "create_model_from_config_path", "get_pretrained_model"]
__getattr__ = lazy(
    __name__,
    create_model_from_config="stable_audio_tools.models.factory",
    create_model_from_config_path="stable_audio_tools.models.factory",
    get_pretrained_model="stable_audio_tools.models.pretrained",
)
