"""Loss terms that a bottleneck has of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from stable_audio_tools.models.bottlenecks.base import Bottleneck
from stable_audio_tools.training.losses.modules import ValueLoss


def create_loss_modules_from_bottleneck(bottleneck: Bottleneck | None, loss_config: Mapping[str, Any] | None = None) -> list[ValueLoss]:
    """One module per term that the bottleneck has.

    Args:
        bottleneck: None has none.
        loss_config: ``loss_configs`` of a config; of it, ``{"bottleneck": {"weights": {...}}}`` counts: weights by name without
            ``_loss``. The bottleneck's defaults hold for others.
    """
    weights = ((loss_config or {}).get("bottleneck") or {}).get("weights", {})
    modules: list[ValueLoss] = []
    for key, default in (bottleneck.loss_weights if bottleneck is not None else {}).items():
        name = key.rpartition("/")[2].removesuffix("_loss")  # "vq/codebook_loss" is "codebook" in configs, "codebook_loss" in logs
        weight = weights.get(name)
        modules.append(ValueLoss(key, f"{name}_loss", default if weight is None else weight))
    return modules


def bottleneck_losses(
    bottleneck: Bottleneck | None, info: Mapping[str, Any], weights: Mapping[str, float] | None = None
) -> dict[str, Tensor]:
    """Weighted loss terms, by name.

    Args:
        bottleneck: Whose terms; None has none.
        info: What it reported when it encoded. Some report a term only in training.
        weights: By name without ``_loss``; its defaults hold for others.
    """
    modules = create_loss_modules_from_bottleneck(bottleneck, {"bottleneck": {"weights": weights or {}}})
    return {module.name: module(info) for module in modules if module.key in info}
