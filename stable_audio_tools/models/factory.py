"""From configs to models: the functions that users' scripts call."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from stable_audio_tools.config.check import parse_block, parse_model_config
from stable_audio_tools.config.model import (
    BottleneckBlock,
    DiffusionAutoencoderConfig,
    DiffusionCondConfig,
    DiffusionUncondConfig,
    PretransformBlock,
)
from stable_audio_tools.errors import ConfigError
from stable_audio_tools.families import MODELS
from stable_audio_tools.models.autoencoders.diffusion_autoencoder import DiffusionAutoencoder, build_diffusion_autoencoder
from stable_audio_tools.models.bottlenecks.base import Bottleneck
from stable_audio_tools.models.bottlenecks.build import build_bottleneck
from stable_audio_tools.models.conditioners.multi import (
    create_multi_conditioner_from_conditioning_config as create_multi_conditioner_from_conditioning_config,
)
from stable_audio_tools.models.diffusion.uncond import DiffusionModelWrapper, build_diffusion_uncond
from stable_audio_tools.models.diffusion.wrappers import ConditionedDiffusionModelWrapper, build_diffusion_cond
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


def create_diffusion_cond_from_config(config: Mapping[str, Any]) -> ConditionedDiffusionModelWrapper:
    """Build a conditional diffusion model from its config."""
    parsed = parse_model_config(config)
    if not isinstance(parsed, DiffusionCondConfig):
        raise ConfigError(f"model_type: is {parsed.model_type!r}, but must be 'diffusion_cond' here; create_model_from_config takes any")
    return build_diffusion_cond(parsed)


def create_diffusion_uncond_from_config(config: Mapping[str, Any]) -> DiffusionModelWrapper:
    """Build an unconditional diffusion model from its config."""
    parsed = parse_model_config(config)
    if not isinstance(parsed, DiffusionUncondConfig):
        raise ConfigError(f"model_type: is {parsed.model_type!r}, but must be 'diffusion_uncond' here; create_model_from_config takes any")
    return build_diffusion_uncond(parsed)


def create_diffAE_from_config(config: Mapping[str, Any]) -> DiffusionAutoencoder:  # noqa: N802  # kept name
    """Build a diffusion autoencoder from a config with ``sample_rate`` and ``model``."""
    parsed = parse_model_config({**config, "model_type": "diffusion_autoencoder"})
    assert isinstance(parsed, DiffusionAutoencoderConfig)
    return build_diffusion_autoencoder(parsed)


def create_pretransform_from_config(pretransform_config: Mapping[str, Any], sample_rate: int) -> Pretransform:
    """Build a pretransform from its block ``{"type": ..., "config": ...}``."""
    return build_pretransform(parse_block(PretransformBlock, pretransform_config, name="pretransform"), sample_rate)


def create_bottleneck_from_config(bottleneck_config: Mapping[str, Any]) -> Bottleneck:
    """Build a bottleneck from its block ``{"type": ..., "config": ...}``."""
    return build_bottleneck(parse_block(BottleneckBlock, bottleneck_config, name="bottleneck"))
