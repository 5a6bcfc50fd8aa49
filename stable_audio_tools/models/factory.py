"""From configs to models: the functions that users' scripts call."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from stable_audio_tools.config.check import parse_block, parse_model_config
from stable_audio_tools.config.model import BottleneckBlock, PretransformBlock
from stable_audio_tools.families import MODELS
from stable_audio_tools.models.autoencoders.autoencoder import create_autoencoder_from_config
from stable_audio_tools.models.autoencoders.diffusion_autoencoder import create_diffAE_from_config
from stable_audio_tools.models.bottlenecks.base import Bottleneck
from stable_audio_tools.models.bottlenecks.build import build_bottleneck
from stable_audio_tools.models.conditioners.multi import create_multi_conditioner_from_conditioning_config
from stable_audio_tools.models.diffusion.uncond import create_diffusion_uncond_from_config
from stable_audio_tools.models.diffusion.wrappers import create_diffusion_cond_from_config
from stable_audio_tools.models.pretransforms.base import Pretransform
from stable_audio_tools.models.pretransforms.build import build_pretransform


def create_model_from_config(model_config: Mapping[str, Any]) -> nn.Module:
    """Build a model with fresh weights. The config is read, never written.

    Args:
        model_config: A model config, as read from JSON.

    Raises:
        ConfigError: With every mistake. Unknown keys of the trunk are warned about instead; ``training`` is not looked at.
    """
    config = parse_model_config(model_config)
    return MODELS.build(config.model_type, config=config)


def create_model_from_config_path(model_config_path: str | Path) -> nn.Module:
    """Build a model from a JSON file; see `create_model_from_config`."""
    config = parse_model_config(model_config_path)
    return MODELS.build(config.model_type, config=config)


def create_pretransform_from_config(pretransform_config: Mapping[str, Any], sample_rate: int) -> Pretransform:
    """Build a pretransform from its block ``{"type": ..., "config": ...}``."""
    return build_pretransform(parse_block(PretransformBlock, pretransform_config, name="pretransform"), sample_rate)


def create_bottleneck_from_config(bottleneck_config: Mapping[str, Any]) -> Bottleneck:
    """Build a bottleneck from its block ``{"type": ..., "config": ...}``."""
    return build_bottleneck(parse_block(BottleneckBlock, bottleneck_config, name="bottleneck"))


__all__ = [
    "create_autoencoder_from_config", "create_bottleneck_from_config", "create_diffAE_from_config", "create_diffusion_cond_from_config",
    "create_diffusion_uncond_from_config", "create_model_from_config", "create_model_from_config_path",
    "create_multi_conditioner_from_conditioning_config", "create_pretransform_from_config",
]  # fmt: skip
