"""Prodigy: AdamW that finds its learning rate itself."""

from __future__ import annotations

import torch

from stable_audio_tools.config.base import BelowOne, Betas, NonNegativeFloat, PositiveFloat
from stable_audio_tools.optional import require
from stable_audio_tools.training.optims.base import OPTIMIZERS, Params


@OPTIMIZERS.register("Prodigy")
def prodigy(
    params: Params,
    lr: NonNegativeFloat = 1.0,
    betas: Betas = (0.9, 0.999),
    beta3: BelowOne | None = None,
    eps: NonNegativeFloat = 1e-8,
    weight_decay: NonNegativeFloat = 0.0,
    decouple: bool = True,
    use_bias_correction: bool = False,
    safeguard_warmup: bool = False,
    d0: PositiveFloat = 1e-6,
    d_coef: PositiveFloat = 1.0,
) -> torch.optim.Optimizer:
    """AdamW that finds its learning rate itself, from how far it has come.

    Of the package ``prodigyopt``. Source: Mishchenko and Defazio 2023, "Prodigy: an expeditiously adaptive parameter-free learner",
    arXiv:2306.06101.

    Args:
        params: Parameters or groups.
        lr: Factor on the rate that it finds; leave it at 1.
        betas: Of the averages of the gradient and of its square.
        beta3: Of the estimate of the distance; the root of the second beta unless given.
        eps: Added to the root of the squares' average.
        weight_decay: Times the learning rate.
        decouple: Decay weights as AdamW does, rather than as Adam does.
        use_bias_correction: Make up for averages that begin at zero.
        safeguard_warmup: Leave the learning rate out of the estimate, for schedules that begin at zero.
        d0: First estimate of the distance.
        d_coef: Factor on the estimate; less than 1 is more careful.
    """
    module = require("prodigyopt", extra="optimizers", purpose="the optimizer 'Prodigy'")
    return module.Prodigy(
        params, lr=lr, betas=tuple(betas), beta3=beta3, eps=eps, weight_decay=weight_decay, decouple=decouple,
        use_bias_correction=use_bias_correction, safeguard_warmup=safeguard_warmup, d0=d0, d_coef=d_coef,
    )  # fmt: skip
