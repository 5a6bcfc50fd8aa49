"""Model configs of the MusicGen family."""

from __future__ import annotations

from typing import Literal

from stable_audio_tools.config.base import PositiveInt, Strict
from stable_audio_tools.config.model.base import ModelConfig
from stable_audio_tools.config.training.lm import LMTraining


class MusicgenModel(Strict):
    """``model`` of a pretrained MusicGen: where it comes from.

    ``pretrained`` is a local folder, a Hugging Face id, or the end of an id of the original models: ``small`` is
    ``facebook/musicgen-small``.
    """

    pretrained: str


class MusicgenConfig(ModelConfig):
    """A pretrained MusicGen."""

    model_type: Literal["musicgen"]  # pyright: ignore[reportIncompatibleVariableOverride]
    model: MusicgenModel
    audio_channels: PositiveInt = 1
    training: LMTraining | None = None
