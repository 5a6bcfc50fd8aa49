"""Whether a model config and a dataset config fit together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from stable_audio_tools.config.model import ModelConfig
from stable_audio_tools.config.source import Source
from stable_audio_tools.errors import ConfigError
from stable_audio_tools.families import DATASETS


def refuse_confusion(config: ModelConfig, dataset: Source) -> None:
    """Refuse latents where the training of a model wants samples, and the other way round, before anything is loaded.

    Raises:
        ConfigError: With the fix.
    """
    given: Mapping[str, Any] = cast("Mapping[str, Any]", dataset.data) if isinstance(dataset.data, Mapping) else {}
    kind = given.get("dataset_type")
    if not isinstance(kind, str) or kind not in DATASETS or ":" in kind:
        return  # to be told when it is checked; of other people's datasets nothing is known
    has_key = any(parameter.name == "pre_encoded" for parameter in DATASETS.schema(kind).parameters)
    is_latent = given.get("pre_encoded") is True if has_key else bool(DATASETS.part(kind).facts.get("latents"))
    wants_latents = getattr(config.training, "pre_encoded", None)
    if wants_latents is not None and getattr(config.model, "pretransform", None) is None:
        return  # the model takes what the dataset gives
    if wants_latents is None and is_latent:
        raise ConfigError(f"{dataset.name}: holds latents, but {config.model_type!r} models train on audio; use dataset_type 'audio_dir'")
    if wants_latents is False and is_latent:
        raise ConfigError(f'{dataset.name}: holds latents, but the model would encode them again; set "pre_encoded": true in its training')
    if wants_latents is True and not is_latent:
        raise ConfigError(
            f"{dataset.name}: holds audio, but the model's training.pre_encoded is true, so it wants latents; set it to false, or encode "
            "the dataset with sat pre-encode and use dataset_type 'pre_encoded'"
        )
