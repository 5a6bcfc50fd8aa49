"""The trunk of a model config: what every model of a type has, whatever it is built of. One file per model type."""

from __future__ import annotations

from collections.abc import Mapping

from stable_audio_tools.config.base import Strict
from stable_audio_tools.config.model.autoencoder import AutoencoderConfig, AutoencoderModel
from stable_audio_tools.config.model.base import ModelConfig
from stable_audio_tools.config.model.conditioning import ConditionerBlock, ConditioningModel
from stable_audio_tools.config.model.diffusion_autoencoder import DenoiserBlock, DiffusionAutoencoderConfig, DiffusionAutoencoderModel
from stable_audio_tools.config.model.diffusion_cond import (
    DiffusionBlock,
    DiffusionCondConfig,
    DiffusionCondModel,
    ModularLocalCond,
    shift_of,
)
from stable_audio_tools.config.model.diffusion_cond_inpaint import DiffusionCondInpaintConfig, DiffusionCondInpaintModel
from stable_audio_tools.config.model.diffusion_uncond import DiffusionUncondConfig, DiffusionUncondModel
from stable_audio_tools.config.model.lm import LMBlock, LMConfig, LMModel
from stable_audio_tools.config.model.musicgen import MusicgenConfig, MusicgenModel
from stable_audio_tools.config.model.parts import BottleneckBlock, DecoderBlock, EncoderBlock, PretransformBlock

MODEL_CONFIGS: Mapping[str, type[ModelConfig]] = {
    "autoencoder": AutoencoderConfig,
    "diffusion_cond": DiffusionCondConfig,
    "diffusion_cond_inpaint": DiffusionCondInpaintConfig,
    "lm": LMConfig,
    "musicgen": MusicgenConfig,
    "diffusion_uncond": DiffusionUncondConfig,
    "diffusion_autoencoder": DiffusionAutoencoderConfig,
}
TRUNK_CONFIGS: Mapping[str, type[Strict]] = {"AutoencoderModel": AutoencoderModel}  # trunk objects that are the config of a part

__all__ = [
    "MODEL_CONFIGS", "TRUNK_CONFIGS", "AutoencoderConfig", "AutoencoderModel", "BottleneckBlock", "ConditionerBlock", "ConditioningModel",
    "DecoderBlock", "DenoiserBlock", "DiffusionAutoencoderConfig", "DiffusionAutoencoderModel", "DiffusionBlock", "DiffusionCondConfig",
    "DiffusionCondInpaintConfig", "DiffusionCondInpaintModel", "DiffusionCondModel", "DiffusionUncondConfig", "DiffusionUncondModel",
    "EncoderBlock", "LMBlock", "LMConfig", "LMModel", "ModelConfig", "ModularLocalCond", "MusicgenConfig", "MusicgenModel",
    "PretransformBlock", "shift_of",
]  # fmt: skip
