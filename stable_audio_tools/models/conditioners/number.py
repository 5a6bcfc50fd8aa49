"""Condition on a number, continuously."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch

from stable_audio_tools.config.base import PositiveInt
from stable_audio_tools.errors import ConfigError
from stable_audio_tools.families import CONDITIONERS
from stable_audio_tools.models.conditioners.base import Condition, Conditioner, as_number, ones_mask
from stable_audio_tools.models.layers.embeddings import NumberEmbedder
from stable_audio_tools.models.layers.parameters import dtype_of


@CONDITIONERS.register("number", reads="number", steps=1, rules=(("less", "min_val", "max_val"),))
class NumberConditioner(Conditioner):
    """Embeds one number per item with sines. For cross-attention, global or prepended conditioning.

    Args:
        output_dim: Width of the embedding.
        min_val: Smallest expected value; smaller ones are clamped to it.
        max_val: Largest expected value; larger ones are clamped to it.
        fourier_features_type: ``learned`` frequencies, or ``expo``: fixed ones from 0.5 to 10,000 per range (Stable Audio 3).
    """

    def __init__(
        self, output_dim: PositiveInt, min_val: float = 0, max_val: float = 1, fourier_features_type: Literal["learned", "expo"] = "learned"
    ) -> None:
        super().__init__(output_dim, output_dim)
        if not min_val < max_val:
            raise ConfigError(f"conditioner 'number': min_val must be less than max_val, got {min_val} and {max_val}")
        self.min_val = min_val
        self.max_val = max_val
        self.embedder = NumberEmbedder(output_dim, fourier_features_type=fourier_features_type)

    def forward(self, values: Sequence[Any], device: torch.device | str) -> Condition:
        numbers = torch.tensor([as_number(value, "number") for value in values], dtype=torch.float32, device=device).clamp(
            self.min_val, self.max_val
        )
        unit = (numbers - self.min_val) / (self.max_val - self.min_val)  # (B,)
        embedding = self.embedder(unit.to(dtype_of(self.embedder)))[:, None]  # (B, 1, D)
        return Condition(embedding, ones_mask(embedding))
