"""FusedAdam: the name that configs use for DeepSpeed's AdamW."""

from __future__ import annotations

from typing import Literal

import torch

from stable_audio_tools.config.base import Betas, NonNegativeFloat
from stable_audio_tools.training.optims.base import OPTIMIZERS, Params


@OPTIMIZERS.register("FusedAdam")
def fused_adam(
    params: Params,
    lr: NonNegativeFloat = 1e-3,
    bias_correction: Literal[True] = True,
    betas: Betas = (0.9, 0.999),
    eps: NonNegativeFloat = 1e-8,
    adam_w_mode: bool = True,
    weight_decay: NonNegativeFloat = 0.0,
    amsgrad: Literal[False] = False,
) -> torch.optim.Optimizer:
    """AdamW of torch under the name and with the defaults of the one of DeepSpeed.

    Args:
        params: Parameters or groups.
        lr: Learning rate.
        bias_correction: Only true: averages that begin at zero are made up for.
        betas: Of the averages of the gradient and of its square.
        eps: Added to the root of the squares' average.
        adam_w_mode: Decay weights as AdamW does, rather than as Adam does.
        weight_decay: Times the learning rate.
        amsgrad: Only false.
    """
    kind = torch.optim.AdamW if adam_w_mode else torch.optim.Adam
    return kind(params, lr=lr, betas=(betas[0], betas[1]), eps=eps, weight_decay=weight_decay)
