"""From the errors of every latent frame to one loss per item: what counts, how much, and in which unit. As in version 0.0.20."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

EPS = 1e-8  # of a quotient whose divisor counts frames


class FrameWeights(NamedTuple):
    """A loss per item, in which every item weighs the same, however long it is.

    Attributes:
        content: (B, L), False at padding.
        kept: (B, L), True where the network is told the latents (inpainting); None is nowhere.
        rest_weight: What padding and kept frames count, where the others count 1.
        hides_padding: The network does not see padding: then it does not count at all, and kept frames have a mean of their own.
        normalization: Errors are divided by the variance of the target over channels (``timestep``), over everything (``sample``), or
            over frames (``sample_channel``); ``none`` leaves them.
        eps: Least variance.
    """

    content: Tensor
    kept: Tensor | None = None
    rest_weight: float = 0.0
    hides_padding: bool = False
    normalization: str = "none"
    eps: float = 1e-6

    def __call__(self, error: Tensor, target: Tensor) -> Tensor:
        """Squared errors (B, D, L) and targets (B, D, L) -> losses (B,)."""
        frames = self._normalized(error, target).mean(dim=1)  # (B, L)
        content = self.content.to(frames)
        kept = torch.zeros_like(frames) if self.kept is None else self.kept.to(frames)
        signal = content * (1 - kept)
        if self.hides_padding:
            told = content * kept
            return _mean(frames, signal) + (self.rest_weight * _mean(frames, told) if self.kept is not None else 0)
        return _mean(frames, signal + self.rest_weight * (1 - signal))

    def _normalized(self, error: Tensor, target: Tensor) -> Tensor:
        if self.normalization == "none":
            return error
        weight = self.content[:, None].to(error).expand_as(error)  # (B, D, L)
        dims = {"timestep": (1,), "sample": (1, 2), "sample_channel": (2,)}[self.normalization]
        count = weight.sum(dims, keepdim=True).clamp(min=1)
        mean = (target * weight).sum(dims, keepdim=True) / count
        variance = ((target - mean).square() * weight).sum(dims, keepdim=True) / count
        return torch.where(weight > 0, error / (variance + self.eps), error)


def _mean(values: Tensor, weight: Tensor) -> Tensor:
    """(B, L) -> (B,)"""
    return (values * weight).sum(dim=1) / (weight.sum(dim=1) + EPS)


@torch.no_grad()
def coupled_noise(latents: Tensor, noise: Tensor, iterations: int = 20) -> Tensor:
    """The noise of a batch in another order, so that items and their noise are close: paths to the data get straighter.

    An entropic plan between them, then the best partner that is left for each item in turn.

    Source: Pooladian et al. 2023, arXiv:2304.14772 (optimal transport within a batch).

    Args:
        latents: (B, D, L)
        noise: (B, D, L)
        iterations: Sinkhorn iterations.
    """
    if len(latents) < 2:
        return noise
    cost = torch.cdist(latents.flatten(1).float(), noise.flatten(1).float()).square()  # (B, B)
    plan = -cost / cost.mean()
    for _ in range(iterations):
        plan = plan - plan.logsumexp(dim=1, keepdim=True)
        plan = plan - plan.logsumexp(dim=0, keepdim=True)
    plan = plan.cpu()
    order: list[int] = []
    for row in plan:
        row[order] = -torch.inf
        order.append(int(row.argmax()))
    return noise[order]
