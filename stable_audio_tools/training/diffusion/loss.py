"""The diffusion loss, from latents to a number. Pure: what it draws, it draws from torch's global streams or the generator it is given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stable_audio_tools.models.diffusion.wrappers import ConditionedDiffusionModelWrapper
from stable_audio_tools.sampling.objectives import objective


class DiffusionLoss(NamedTuple):
    """A loss and what it was made of.

    Attributes:
        loss: Mean squared error.
        per_item: The same for each item, (B,), detached.
        t: Times of the items, (B,).
    """

    loss: Tensor
    per_item: Tensor
    t: Tensor


def diffusion_loss(
    model: ConditionedDiffusionModelWrapper,
    latents: Tensor,
    t: Tensor,
    conditioning: Mapping[str, Any],
    *,
    mask: Tensor | None = None,
    noise: Tensor | None = None,
    **backbone: Any,
) -> DiffusionLoss:
    """Noise latents, predict, compare.

    Args:
        model: The model.
        latents: (B, D, L)
        t: Times (B,) in [0, 1].
        conditioning: What the model's conditioner returned.
        mask: (B, L), True where the loss counts; None counts everything.
        noise: (B, D, L); None draws it.
        **backbone: For the backbone, for example ``cfg_dropout_prob``.

    Returns:
        The loss over everything that counts.
    """
    noise = torch.randn_like(latents) if noise is None else noise
    noised = objective(model.diffusion_objective).add_noise(latents, noise, t)
    prediction = model(noised.x_t, noised.t, cond=conditioning, **backbone)
    error = (prediction.float() - noised.target.float()).square()  # (B, D, L)
    if mask is None:
        return DiffusionLoss(error.mean(), error.detach().flatten(1).mean(dim=1), t)
    weight = mask[:, None].to(error.dtype).expand_as(error)
    per_item = (error * weight).flatten(1).sum(dim=1) / weight.flatten(1).sum(dim=1).clamp(min=1)
    return DiffusionLoss((error * weight).sum() / weight.sum().clamp(min=1), per_item.detach(), t)
