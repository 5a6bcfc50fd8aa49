"""CAdamW and CLion: optimizers that leave out the components of a step that go against the gradient.

Source: Liang et al. 2024, "Cautious optimizers: improving training with one line of code", arXiv:2411.16085.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from stable_audio_tools.config.base import Betas, NonNegativeFloat
from stable_audio_tools.training.optims.base import OPTIMIZERS, Optimizer, Params, decay
from stable_audio_tools.training.optims.lion import Lion


def agreement(directions: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
    """1 where a step along a direction goes down the gradient, else 0."""
    return [(product > 0).to(product.dtype) for product in torch._foreach_mul(directions, gradients)]


@OPTIMIZERS.register("CAdamW")
class CAdamW(Optimizer):
    """AdamW without the components of a step that go against the gradient.

    The others grow by as much as is left out, at most a thousand times. Source: Liang et al. 2024, arXiv:2411.16085, algorithm 1;
    Loshchilov and Hutter 2019, arXiv:1711.05101.

    Args:
        params: Parameters, named parameters or groups.
        lr: Learning rate.
        betas: Of the averages of the gradient and of its square.
        eps: Added to the root of the squares' average.
        weight_decay: Decoupled, times the learning rate.
        correct_bias: Make up for averages that begin at zero.
    """

    def __init__(
        self,
        params: Params,
        lr: NonNegativeFloat = 1e-3,
        betas: Betas = (0.9, 0.999),
        eps: NonNegativeFloat = 1e-6,
        weight_decay: NonNegativeFloat = 0.0,
        correct_bias: bool = True,
    ) -> None:
        defaults = {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay, "correct_bias": correct_bias}
        super().__init__(params, defaults)

    def update(self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor]) -> None:
        means, squares = self.states(parameters, "exp_avg", "exp_avg_sq")
        beta1, beta2 = group["betas"]
        decay(parameters, group["lr"], group["weight_decay"])
        torch._foreach_lerp_(means, gradients, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, gradients, gradients, value=1 - beta2)
        masks = agreement(means, gradients)
        torch._foreach_div_(masks, [mask.mean().clamp(min=1e-3) for mask in masks])
        torch._foreach_mul_(masks, means)
        scales = torch._foreach_sqrt(squares)
        torch._foreach_add_(scales, group["eps"])
        for number, indices in self.count(parameters).items():
            step = group["lr"]
            if group["correct_bias"]:
                step *= math.sqrt(1 - beta2**number) / (1 - beta1**number)
            own, steps, sizes = ([values[index] for index in indices] for values in (parameters, masks, scales))
            torch._foreach_addcdiv_(own, steps, sizes, value=-step)


@OPTIMIZERS.register("CLion")
class CLion(Lion):
    """Lion without the components of a step that go against the gradient; the others grow by as much as is left out.

    Source: Liang et al. 2024, arXiv:2411.16085, algorithm 2. Arguments are those of ``Lion``.
    """

    def __init__(
        self, params: Params, lr: NonNegativeFloat = 1e-4, betas: Betas = (0.9, 0.99), weight_decay: NonNegativeFloat = 0.0
    ) -> None:
        """See ``Lion``.

        Args:
            params: Parameters, named parameters or groups.
            lr: Size of a step.
            betas: Of the direction, and of the momentum that is kept.
            weight_decay: Decoupled, times the learning rate.
        """
        super().__init__(params, lr, betas, weight_decay)

    def chosen(self, directions: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
        masks = agreement(directions, gradients)
        torch._foreach_mul_(masks, [mask.numel() / (mask.sum() + 1) for mask in masks])
        return list(torch._foreach_mul(directions, masks))
