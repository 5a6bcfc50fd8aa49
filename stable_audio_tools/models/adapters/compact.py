"""The weights that an adapter leaves alone, in a smaller data type: half the memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from stable_audio_tools.models.pretransforms.autoencoder import AutoencoderPretransform

DTYPES = {"bf16": torch.bfloat16, "bfloat16": torch.bfloat16, "fp16": torch.float16, "float16": torch.float16}


def compact(model: nn.Module, dtype: torch.dtype) -> int:
    """Keep all of a model that is frozen in a smaller data type, in which it then computes, too. What is trained stays as it is.

    So does a pretransform other than an autoencoder: it has few weights, and is given audio in float32.

    Returns:
        Parameters that are kept so.
    """
    pretransform: Any = getattr(model, "pretransform", None)
    excepted = set(pretransform.modules()) if pretransform is not None and not isinstance(pretransform, AutoencoderPretransform) else set()
    num_kept = 0
    for module in model.modules():
        if module in excepted:
            continue
        for parameter in module.parameters(recurse=False):
            if not parameter.requires_grad:
                parameter.data = _smaller(parameter.data, dtype)
                num_kept += parameter.numel()
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, _smaller(buffer, dtype))
    if isinstance(pretransform, AutoencoderPretransform) and not pretransform.enable_grad:
        pretransform.model_half = True  # casts what goes in and comes out
    return num_kept


def _smaller(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor
