"""The diffusion loss, from latents to a number. Pure: what it draws, it draws from torch's global streams or the generator it is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stable_audio_tools.models.diffusion.wrappers import ConditionedDiffusionModelWrapper
from stable_audio_tools.sampling.objectives import objective as find_objective

Average = Callable[[Tensor, Tensor], Tensor]  # squared errors (B, D, L) and targets (B, D, L) -> loss per item (B,)


class DiffusionLoss(NamedTuple):
    """A loss and what it was made of.

    Attributes:
        loss: Mean squared error.
        per_item: The same for each item, (B,), detached.
        t: Times of the items, (B,).
        denoised: Computes what the prediction says the latents are, (B, D, L).
        unexplained: Computes `unexplained` of it, where the loss counts.
    """

    loss: Tensor
    per_item: Tensor
    t: Tensor
    denoised: Callable[[], Tensor]
    unexplained: Callable[[], Tensor]


def unexplained(denoised: Tensor, latents: Tensor, t: Tensor, objective: str, average: Average | None = None) -> Tensor:
    """The squared error of denoised latents (B, D, L), as a share of that of the best guess of one who only knows the latents' variance.

    Noise of little weight is easily removed, and latents of little variance are easily guessed: neither lowers this number.

    Args:
        denoised: (B, D, L)
        latents: (B, D, L)
        t: Times (B,) of the noised latents.
        objective: How they were noised.
        average: From squared errors and latents (B, D, L) to numbers (B,); None counts everything.
    """
    latents = latents.float()
    alpha, sigma = (weight.square() for weight in find_objective(objective).alpha_sigma(t.float()[:, None, None]))  # (B, 1, 1)
    power = latents.var()
    guess = (power * sigma / (alpha * power + sigma)).expand_as(latents)
    error = (denoised.float() - latents).square()
    if average is None:
        return error.mean() / guess.mean()
    return average(error, latents).mean() / average(guess, latents).mean()


def denoising_loss(
    predict: Callable[[Tensor, Tensor], Tensor],
    latents: Tensor,
    t: Tensor,
    *,
    objective: str,
    mask: Tensor | None = None,
    noise: Tensor | None = None,
    average: Average | None = None,
) -> DiffusionLoss:
    """Noise latents, predict, compare.

    Args:
        predict: From noised latents (B, D, L) and times (B,) to a prediction (B, D, L).
        latents: (B, D, L)
        t: Times (B,) in [0, 1].
        objective: What it predicts: the name of a diffusion objective.
        mask: (B, L), True where the loss counts; None counts everything.
        noise: (B, D, L); None draws it.
        average: Instead of ``mask``: from squared errors and targets to one loss per item, which then all weigh the same.

    Returns:
        The loss over everything that counts.
    """
    mixing = find_objective(objective)
    noised = mixing.add_noise(latents, torch.randn_like(latents) if noise is None else noise, t)
    prediction = predict(noised.x_t, noised.t)

    def denoised() -> Tensor:
        return mixing.denoised(noised.x_t, prediction, t[:, None, None])

    def measure() -> Tensor:
        return unexplained(denoised(), latents, t, objective, average or (None if mask is None else _sums_within(mask)))

    error = (prediction.float() - noised.target.float()).square()  # (B, D, L)
    if average is not None:
        items = average(error, noised.target.float())
        return DiffusionLoss(items.mean(), items.detach(), t, denoised, measure)
    if mask is None:
        return DiffusionLoss(error.mean(), error.detach().flatten(1).mean(dim=1), t, denoised, measure)
    weight = mask[:, None].to(error.dtype).expand_as(error)
    per_item = (error * weight).flatten(1).sum(dim=1) / weight.flatten(1).sum(dim=1).clamp(min=1)
    return DiffusionLoss((error * weight).sum() / weight.sum().clamp(min=1), per_item.detach(), t, denoised, measure)


def _sums_within(mask: Tensor) -> Average:
    """Sums of each item where a mask (B, L) is True."""
    return lambda error, _: (error * mask[:, None]).flatten(1).sum(dim=1)  # (B,)


def diffusion_loss(
    model: ConditionedDiffusionModelWrapper,
    latents: Tensor,
    t: Tensor,
    conditioning: Mapping[str, Any],
    *,
    mask: Tensor | None = None,
    noise: Tensor | None = None,
    average: Average | None = None,
    **backbone: Any,
) -> DiffusionLoss:
    """`denoising_loss` of a conditional model.

    Args:
        model: The model.
        latents: (B, D, L)
        t: Times (B,) in [0, 1].
        conditioning: What the model's conditioner returned.
        mask: (B, L), True where the loss counts; None counts everything.
        noise: (B, D, L); None draws it.
        average: See `denoising_loss`.
        **backbone: For the backbone, for example ``cfg_dropout_prob``.
    """

    def predict(x_t: Tensor, t: Tensor) -> Tensor:
        return model(x_t, t, cond=conditioning, **backbone)

    return denoising_loss(predict, latents, t, objective=model.diffusion_objective, mask=mask, noise=noise, average=average)
