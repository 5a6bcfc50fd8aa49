"""The contract of conditioners: from a list of metadata values to one embedding per item."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from stable_audio_tools.errors import DataError
from stable_audio_tools.families import CONDITIONERS
from stable_audio_tools.models.layers.parameters import dtype_of


class Condition(NamedTuple):
    """What a conditioner returns.

    Attributes:
        embedding: (B, S, D) for cross-attention, prepending and global use; (B, C, L) for input concatenation.
        mask: (B, S), True (or 1) where the embedding means something; None if it was pre-encoded.
    """

    embedding: Tensor
    mask: Tensor | None


class Conditioner(nn.Module):
    """Embeds one metadata value per item.

    Args:
        dim: Width of what the conditioner computes.
        output_dim: Width that the model wants (the config's ``cond_dim``).
        project_out: Have a linear layer at the end even if both widths agree.
        padding_mode: What positions without content become: ``"none"`` leaves them, ``"zero"`` makes them zero, ``"learned"`` replaces
            them by one learned vector.
    """

    def __init__(
        self, dim: int, output_dim: int, project_out: bool = False, padding_mode: Literal["none", "zero", "learned"] = "none"
    ) -> None:
        super().__init__()
        self.dim = dim
        self.output_dim = output_dim
        self.proj_out: nn.Module = nn.Linear(dim, output_dim) if dim != output_dim or project_out else nn.Identity()
        self.padding_mode = padding_mode
        if padding_mode == "learned":
            self.padding_embedding = nn.Parameter(0.02 * torch.randn(output_dim))

    def project(self, hidden: Tensor) -> Tensor:
        """What the conditioner computed, (..., dim) -> (..., output_dim), in the data type of the last layer."""
        return self.proj_out(hidden.to(dtype_of(self.proj_out, hidden.dtype)))

    def pad(self, embedding: Tensor, mask: Tensor) -> Tensor:
        """Treat positions (B, S) where ``mask`` is False as ``padding_mode`` says: (B, S, D) -> (B, S, D)."""
        if self.padding_mode == "zero":
            return embedding * mask[..., None].float()  # in float32, as published models got it
        if self.padding_mode == "learned":
            return torch.where(mask[..., None].bool(), embedding, self.padding_embedding.to(embedding.dtype))
        return embedding

    def unwrap(self, value: Any) -> Any:
        """One item's value without the list that WebDataset's collation puts around it."""
        return unwrapped(value)

    def forward(self, values: Sequence[Any], device: torch.device | str) -> Condition:
        """Embed ``values``, one per item, on ``device``."""
        raise NotImplementedError


def unwrapped(value: Any) -> Any:
    """The element of a list or tuple of one; anything else as it is."""
    return value[0] if isinstance(value, (list, tuple)) and len(value) == 1 else value


def ones_mask(embedding: Tensor) -> Tensor:
    """A mask that keeps every position of an embedding (B, S, D): (B, S)."""
    return torch.ones(embedding.shape[:2], device=embedding.device)


def as_number(value: Any, conditioner: str) -> float:
    """A metadata value as a number.

    Args:
        value: Number, text of a number, or tensor of one element.
        conditioner: Who asks, for the message.

    Raises:
        DataError: If it is none.
    """
    try:
        number = float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"conditioner {conditioner!r}: expected a number, got {value!r:.60}") from error
    if math.isnan(number):
        raise DataError(f"conditioner {conditioner!r}: expected a number, got NaN")
    return number


def as_text(value: Any, conditioner: str) -> str:
    """A metadata value as a text.

    Args:
        value: Text, or a number.
        conditioner: Who asks, for the message.

    Raises:
        DataError: If it is neither: the text "None" is no prompt.
    """
    if isinstance(value, (str, int, float)):
        return str(value)
    raise DataError(f"conditioner {conditioner!r}: expected a text, got {value!r:.60}")


__all__ = ["CONDITIONERS", "Condition", "Conditioner", "as_number", "as_text", "ones_mask", "unwrapped"]
