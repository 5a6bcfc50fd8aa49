"""Loss terms that a bottleneck has of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from stable_audio_tools.models.bottlenecks.base import Bottleneck


def bottleneck_losses(
    bottleneck: Bottleneck | None, info: Mapping[str, Any], weights: Mapping[str, float] | None = None
) -> dict[str, Tensor]:
    """Weighted loss terms, by name.

    Args:
        bottleneck: Whose terms; None has none.
        info: What it reported when it encoded.
        weights: By name without ``_loss``; its defaults hold for others.
    """
    terms: dict[str, Tensor] = {}
    for key, default in (bottleneck.loss_weights if bottleneck is not None else {}).items():
        if key in info:
            name = key.rpartition("/")[2].removesuffix("_loss")  # "vq/codebook_loss" is "codebook" in configs, "codebook_loss" in logs
            terms[f"{name}_loss"] = (weights or {}).get(name, default) * info[key]
    return terms
