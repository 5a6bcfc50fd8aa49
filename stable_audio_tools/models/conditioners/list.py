"""Condition on one of a list of options."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from stable_audio_tools.config.base import PositiveInt
from stable_audio_tools.errors import ConfigError
from stable_audio_tools.families import CONDITIONERS
from stable_audio_tools.models.conditioners.base import Condition, Conditioner, ones_mask


@CONDITIONERS.register("list", reads="text", steps=1)
class ListConditioner(Conditioner):
    """Looks up one vector per option, and one for everything that is none of them. For cross-attention, global or prepended conditioning.

    Args:
        output_dim: Width of the embedding.
        options: The options. Their order is part of the model: row ``i + 1`` of the table belongs to option ``i``.
    """

    def __init__(self, output_dim: PositiveInt, options: list[str]) -> None:
        super().__init__(output_dim, output_dim)
        if not options or len(set(options)) < len(options):
            raise ConfigError(f"conditioner 'list': options must be different from each other and at least one, got {options}")
        self.options = list(options)
        self.embedder = nn.Embedding(len(options) + 1, output_dim)

    def forward(self, values: Sequence[Any], device: torch.device | str) -> Condition:
        rows = [self.options.index(value) + 1 if value in self.options else 0 for value in values]
        embedding = self.embedder(torch.tensor(rows, device=device))[:, None]  # (B, 1, D)
        return Condition(embedding, ones_mask(embedding))
