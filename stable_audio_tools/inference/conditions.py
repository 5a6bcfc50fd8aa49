"""What a generation starts from: conditions, audio to vary, audio to keep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from stable_audio_tools.audio import prepare_audio
from stable_audio_tools.errors import ConfigError
from stable_audio_tools.inference.lengths import AnyDiffusionModel, Metadata
from stable_audio_tools.models.diffusion.wrappers import ConditionedDiffusionModelWrapper
from stable_audio_tools.models.layers.parameters import dtype_of


def encode_init_audio(model: AnyDiffusionModel, audio: tuple[int, Tensor], sample_size: int, device: torch.device) -> Tensor:
    """Audio of any rate and channel count -> what the model denoises, (1, D, L).

    Args:
        model: The model.
        audio: (sample rate in Hz, samples (C, T))
        sample_size: Cut or pad to this many samples, at the model's rate.
        device: Where to put it.
    """
    rate, samples = audio
    channels = model.pretransform.io_channels if model.pretransform is not None else model.io_channels
    prepared = prepare_audio(
        samples, in_sr=rate, target_sr=model.sample_rate, target_length=sample_size, target_channels=channels, device=device
    )
    return prepared if model.pretransform is None else model.pretransform.encode(prepared.to(dtype_of(model.pretransform)))


def per_item(conditioning: Metadata | Mapping[str, Any] | None, batch_size: int, name: str) -> Metadata | None:
    """One metadata dictionary per clip; a single one is for all.

    Raises:
        ConfigError: If their number is another one.
    """
    if conditioning is None:
        return None
    items = [conditioning] if isinstance(conditioning, Mapping) else list(conditioning)
    if len(items) == 1:
        items = items * batch_size
    if len(items) != batch_size:
        raise ConfigError(f"{name} has {len(items)} dictionaries, but batch_size is {batch_size}; give one for all, or one per clip")
    return items


def embedded(
    model: ConditionedDiffusionModelWrapper, metadata: Metadata | None, tensors: Mapping[str, Any] | None, device: torch.device
) -> dict[str, Any]:
    """Conditions by id: those that are embedded already, or what the conditioner makes of metadata.

    Raises:
        ConfigError: If there is neither, or no conditioner.
    """
    if tensors is not None:
        return dict(tensors)
    if metadata is None:
        raise ConfigError("nothing to generate from: give conditioning (a list of dictionaries) or conditioning_tensors")
    if model.conditioner is None:
        raise ConfigError("this model has no conditioner: give conditioning_tensors instead of conditioning")
    return dict(model.conditioner(metadata, device))


def cast(inputs: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """Conditions in the network's data type; those in dictionaries too."""
    return {
        key: cast(value, dtype) if isinstance(value, Mapping) else value.to(dtype) if value is not None else None
        for key, value in inputs.items()
    }
