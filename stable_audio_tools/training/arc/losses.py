"""The game of adversarial post-training, as functions of scores. Source: Novack et al. 2025, arXiv:2505.08175."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

PERTURBATION = 0.05  # standard deviation of the noise that scores should not depend on


def relativistic_loss(better: Tensor, worse: Tensor, *, hinge: bool = False) -> Tensor:
    """Small if every score of ``better`` is above that of ``worse``: softplus of the difference, or a hinge at 1.

    Source: Jolicoeur-Martineau 2018, arXiv:1807.00734; scores are compared in pairs.

    Args:
        better: Scores of any shape.
        worse: Scores of the same shape.
        hinge: ``relu(1 - (better - worse))`` instead, which stops where the difference is 1.
    """
    difference = better - worse
    return F.relu(1 - difference).mean() if hinge else F.softplus(-difference).mean()


def sensitivity(score: Callable[[Tensor], Tensor], x: Tensor, scores: Tensor) -> Tensor:
    """How much scores change with a little noise: the squared change, summed over an item's scores. A gradient penalty without gradients.

    Source: Lin et al. 2025, arXiv:2501.08316 (approximated R1).

    Args:
        score: From inputs (B, D, L) to scores (B, ...).
        x: Inputs (B, D, L).
        scores: Theirs.
    """
    change = score(x + PERTURBATION * torch.randn_like(x)) - scores
    return change.square().flatten(1).sum(dim=1).mean()
