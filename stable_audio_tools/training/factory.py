"""From a model and its config to what trains it: the functions that users' scripts call."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from torch import nn

from stable_audio_tools.config.check import parse_model_config
from stable_audio_tools.config.model import ModelConfig
from stable_audio_tools.config.source import Source
from stable_audio_tools.errors import ConfigError
from stable_audio_tools.families import DEMOS, WRAPPERS
from stable_audio_tools.training.base import TrainingWrapper
from stable_audio_tools.training.parameters import freeze


def create_training_wrapper_from_config(model_config: Mapping[str, Any] | str | Path | Source, model: nn.Module) -> TrainingWrapper:
    """The LightningModule that trains a model.

    Args:
        model_config: The model's config, with a ``training`` section.
        model: The model.

    Raises:
        ConfigError: With every mistake, or if there is no ``training`` section.
    """
    config = _with_training(model_config)
    freeze(model, config.training)
    is_post_training = getattr(config.training, "arc", None) is not None
    wrapper: TrainingWrapper = WRAPPERS.build("arc" if is_post_training else config.model_type, model=model, config=config)
    options = getattr(config.training, "ema", None)
    if options is not None:
        if wrapper.ema is None:
            raise ConfigError("training.ema: there is no average of the weights: set use_ema to true, or remove the section")
        wrapper.ema.configure(**options.model_dump(exclude_none=True))
    return wrapper


def create_demo_callback_from_config(model_config: Mapping[str, Any] | str | Path | Source, **kwargs: Any) -> pl.Callback | None:
    """The callback that makes the demos of ``training.demo``; None if there are none.

    Args:
        model_config: The model's config.
        **kwargs: ``demo_dl`` and others of published scripts; have no effect, since demos use the batch at hand.
    """
    config = _with_training(model_config)
    if getattr(getattr(config.training, "demo", None), "num_demos", None) == 0:
        return None
    return DEMOS.build(config.model_type, config=config)


def _with_training(model_config: Mapping[str, Any] | str | Path | Source) -> ModelConfig:
    config = parse_model_config(model_config, strict=True)
    if config.training is None:
        raise ConfigError("the model config has no 'training' section, which says how to train the model")
    return config
