"""The weights that an adapter leaves alone, in a smaller data type: half the memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from stable_audio_tools.models.pretransforms.autoencoder import AutoencoderPretransform

DTYPES = {"bf16": torch.bfloat16, "bfloat16": torch.bfloat16, "fp16": torch.float16, "float16": torch.float16}


def compact(model: nn.Module, dtype: torch.dtype) -> int:
    """Keep all of a model that is frozen in a smaller data type, in which it then computes, too. What is trained stays as it is.

    So does a pretransform other than an autoencoder: it has few weights, and is given audio in float32.

    Returns:
        Parameters that are kept so.
    """
    pretransform: Any = getattr(model, "pretransform", None)
    kept = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    if pretransform is not None and not isinstance(pretransform, AutoencoderPretransform):
        kept |= {id(tensor) for tensor in (*pretransform.parameters(), *pretransform.buffers())}
    before = [(tensor, tensor.data) for tensor in (*model.parameters(), *model.buffers()) if id(tensor) in kept]
    model.to(dtype)
    for tensor, data in before:
        tensor.data = data
    if isinstance(pretransform, AutoencoderPretransform) and not pretransform.enable_grad:
        pretransform.model_half = True  # casts what goes in and comes out
    return sum(parameter.numel() for parameter in model.parameters() if id(parameter) not in kept)
