"""AdamW8bit: AdamW whose state takes a quarter of the memory."""

from __future__ import annotations

import torch

from stable_audio_tools.config.base import Betas, NonNegativeFloat, PositiveInt
from stable_audio_tools.optional import require
from stable_audio_tools.training.optims.base import OPTIMIZERS, Params


@OPTIMIZERS.register("AdamW8bit")
def adamw_8bit(
    params: Params,
    lr: NonNegativeFloat = 1e-3,
    betas: Betas = (0.9, 0.999),
    eps: NonNegativeFloat = 1e-8,
    weight_decay: NonNegativeFloat = 0.01,
    min_8bit_size: PositiveInt = 4096,
    is_paged: bool = False,
) -> torch.optim.Optimizer:
    """AdamW with averages of 8 bits, which take a quarter of the memory.

    Of the package ``bitsandbytes``. Source: Dettmers et al. 2021, "8-bit optimizers via block-wise quantization", arXiv:2110.02861.

    Args:
        params: Parameters or groups.
        lr: Learning rate.
        betas: Of the averages of the gradient and of its square.
        eps: Added to the root of the squares' average.
        weight_decay: Decoupled, times the learning rate.
        min_8bit_size: Parameters with fewer elements have averages of 32 bits.
        is_paged: Let averages move to the machine's memory when that of the device is full.
    """
    module = require("bitsandbytes", extra="optimizers", purpose="the optimizer 'AdamW8bit'")
    return module.optim.AdamW8bit(
        params, lr=lr, betas=tuple(betas), eps=eps, weight_decay=weight_decay, min_8bit_size=min_8bit_size, is_paged=is_paged
    )
