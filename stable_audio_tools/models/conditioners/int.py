"""Condition on an integer, one learned vector per value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn

from stable_audio_tools.config.base import NonNegativeInt, PositiveInt
from stable_audio_tools.errors import ConfigError
from stable_audio_tools.families import CONDITIONERS
from stable_audio_tools.models.conditioners.base import Condition, Conditioner, as_number, ones_mask


@CONDITIONERS.register("int", reads="number", steps=1)
class IntConditioner(Conditioner):
    """Looks up one vector per integer. For cross-attention, global or prepended conditioning.

    The table has one row per value of the range and is indexed by the value itself, as published weights expect; so a range that starts
    above 0 must not need rows beyond the table.

    Args:
        output_dim: Width of the embedding.
        min_val: Smallest value; smaller ones are clamped to it.
        max_val: Largest value; larger ones are clamped to it.
    """

    def __init__(self, output_dim: PositiveInt, min_val: Literal[0] = 0, max_val: NonNegativeInt = 512) -> None:
        super().__init__(output_dim, output_dim)
        if min_val != 0 or max_val < 0:
            raise ConfigError(
                f"conditioner 'int': the table is indexed by the value itself, so min_val must be 0 and max_val at least 0, "
                f"got {min_val} and {max_val}; shift the values, or use conditioner 'number'"
            )
        self.min_val = min_val
        self.max_val = max_val
        self.int_embedder = nn.Embedding(max_val - min_val + 1, output_dim)

    def forward(self, values: Sequence[Any], device: torch.device | str) -> Condition:
        indices = [int(min(max(as_number(value, "int"), self.min_val), self.max_val)) for value in values]
        embedding = self.int_embedder(torch.tensor(indices, device=device))[:, None]  # (B, 1, D)
        return Condition(embedding, ones_mask(embedding))
