"""The models that post-training compares with: a teacher, and the body of the adversary."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import nn

from stable_audio_tools.checkpoint import load_model_weights
from stable_audio_tools.errors import CheckpointError, ConfigError
from stable_audio_tools.models.diffusion.dit import DiffusionTransformer
from stable_audio_tools.models.diffusion.dit_cond import DiTWrapper
from stable_audio_tools.models.diffusion.wrappers import ConditionedDiffusionModelWrapper
from stable_audio_tools.models.factory import create_model_from_config


def model_beside(
    model: ConditionedDiffusionModelWrapper, config: Mapping[str, Any] | None, checkpoint: str | None, *, key: str
) -> ConditionedDiffusionModelWrapper:
    """A further diffusion model on the same latents. It has no pretransform, since it only ever sees latents.

    Args:
        model: The model that is trained: without a config, what is made is a copy of it.
        config: Its config, if it is of another kind.
        checkpoint: Its weights; None is those that it has.
        key: Where the config says so, for messages.

    Raises:
        ConfigError: If the config describes something else, or a model of other latents.
        CheckpointError: If the weights do not fit.
    """
    if config is not None:
        made = create_model_from_config(config)
        if not isinstance(made, ConditionedDiffusionModelWrapper):
            raise ConfigError(f"training.arc.{key}: must be a conditional diffusion model, got model_type {config.get('model_type')!r}")
        if made.io_channels != model.io_channels:
            raise ConfigError(
                f"training.arc.{key}: denoises {made.io_channels} channels, but the model that is trained {model.io_channels}"
            )
    else:
        # The pretransform is shared while copying: a condition may be made by it.
        made = copy.deepcopy(model, {id(model.pretransform): model.pretransform})
    made.pretransform = None
    if checkpoint is not None:
        try:
            load_model_weights(made, checkpoint)
        except CheckpointError as error:
            raise CheckpointError(f"training.arc.{key}: {error}") from error
    return made


def transformer_of(model: ConditionedDiffusionModelWrapper) -> DiffusionTransformer:
    """The transformer whose blocks are scored.

    Raises:
        ConfigError: If the model has none.
    """
    if not isinstance(model.model, DiTWrapper):
        raise ConfigError(f"training.arc.discriminator: needs a model with a 'dit', this one has a {type(model.model).__name__}")
    return model.model.model


def freeze_after(transformer: DiffusionTransformer, block: int) -> None:
    """Freeze what has no part in the hidden states after a block.

    Raises:
        ConfigError: If there is no such block.
    """
    blocks = transformer.transformer.layers
    if block >= len(blocks):
        raise ConfigError(f"training.arc.discriminator.dit_hidden_layer: is {block}, but the model has blocks 0 to {len(blocks) - 1}")
    unused: list[nn.Module] = [*list(blocks)[block + 1 :], transformer.transformer.project_out, transformer.postprocess_conv]
    for module in unused:
        module.requires_grad_(False)
