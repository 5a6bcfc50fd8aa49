"""Cached text embeddings: each text is embedded once, by the conditioners of the model that will be trained."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from stable_audio_tools.checkpoint import atomic_path
from stable_audio_tools.data.store_facts import condition_path
from stable_audio_tools.errors import ConfigError, DataError

logger = logging.getLogger(__name__)


class ConditionCache:
    """Embeds the texts of items and keeps them in a store, by their text.

    Args:
        model: A model with conditioners.
        names: Ids of conditioners.
        folder: The store.
        device: Where the model is.

    Raises:
        ConfigError: If the model has no such conditioner.
    """

    def __init__(self, model: nn.Module, names: Sequence[str], folder: Path, device: torch.device) -> None:
        conditioners: Any = getattr(getattr(model, "conditioner", None), "conditioners", {})
        for name in names:
            if name not in conditioners:
                there = f"it has: {', '.join(conditioners)}" if len(conditioners) else "it has none: give the config of a diffusion model"
                raise ConfigError(f"--cache-conditions {name}: the model has no conditioner of that id; {there}")
            if any(parameter.requires_grad for parameter in conditioners[name].parameters()):
                logger.warning("--cache-conditions %s: this conditioner has trainable weights, which its cached embeddings freeze", name)
        self.conditioners = {name: conditioners[name] for name in names}
        self.folder = folder
        self.device = device

    @torch.inference_mode()
    def keep(self, metadata: Mapping[str, Any]) -> None:
        """Embed the texts of one item, unless they are there.

        Raises:
            DataError: If the item has no such text.
        """
        for name, conditioner in self.conditioners.items():
            text = metadata.get(name)
            if not isinstance(text, str):
                raise DataError(f"--cache-conditions {name}: {metadata.get('path')} has no text of that name, but {text!r:.60}")
            path = self.folder / condition_path(name, text)
            if path.is_file():
                continue
            embedding, mask = conditioner([text], self.device)
            tensors = {"embedding": embedding[0].float().cpu().contiguous()}  # (S, D)
            if mask is not None:
                tensors["mask"] = mask[0].to(torch.uint8).cpu().contiguous()  # (S,)
            with atomic_path(path) as temporary:
                save_file(tensors, temporary)
