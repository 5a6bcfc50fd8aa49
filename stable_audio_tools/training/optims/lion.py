"""Lion: steps of one size, in the direction of the sign of a momentum; half of Adam's memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from stable_audio_tools.config.base import Betas, NonNegativeFloat
from stable_audio_tools.training.optims.base import OPTIMIZERS, Optimizer, Params, decay


@OPTIMIZERS.register("Lion")
class Lion(Optimizer):
    """Lion: steps of one size, in the direction of the sign of a momentum.

    Wants a learning rate three to ten times smaller than AdamW's, and as much more weight decay.
    Source: Chen et al. 2023, "Symbolic discovery of optimization algorithms", arXiv:2302.06675, algorithm 2.

    Args:
        params: Parameters, named parameters or groups.
        lr: Size of a step.
        betas: Of the direction, and of the momentum that is kept.
        weight_decay: Decoupled, times the learning rate.
    """

    def __init__(
        self, params: Params, lr: NonNegativeFloat = 1e-4, betas: Betas = (0.9, 0.99), weight_decay: NonNegativeFloat = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": tuple(betas), "weight_decay": weight_decay})

    def update(self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor]) -> None:
        (momenta,) = self.states(parameters, "exp_avg")
        beta_direction, beta_kept = group["betas"]
        decay(parameters, group["lr"], group["weight_decay"])
        directions = list(torch._foreach_lerp(momenta, gradients, 1 - beta_direction))
        torch._foreach_sign_(directions)
        torch._foreach_add_(parameters, self.chosen(directions, gradients), alpha=-group["lr"])
        torch._foreach_lerp_(momenta, gradients, 1 - beta_kept)

    def chosen(self, directions: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
        """What to step along."""
        return directions
