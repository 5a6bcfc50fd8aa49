"""Snake as one function with a hand-written backward pass: a fraction of the memory and time of the five operations it replaces.

Autograd keeps four intermediate tensors of the plain formula; this keeps the input alone and works in place. Both passes compute in
float32 even if the input is in half precision. On a CPU the forward pass goes through the signal in pieces that stay in the cache.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# 2 MB in float32. (1, 128, 65536) on two cores: 1.0 ns per value instead of 4.7 as a whole in bfloat16, 2.0 ns either way in float32.
CACHED_VALUES = 2**19


def _formula(x: Tensor, frequency: Tensor, height: Tensor) -> Tensor:
    wide = x.to(torch.promote_types(x.dtype, frequency.dtype))
    wave = (wide * frequency).sin_()
    return wave.mul_(wave).mul_(height).add_(wide).to(x.dtype)


class _Snake(torch.autograd.Function):
    """``y = x + height * sin(frequency * x)^2``, with one frequency and height per channel."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, frequency: Tensor, height: Tensor) -> Tensor:
        ctx.save_for_backward(x, frequency, height)
        if x.device.type != "cpu" or x.numel() <= CACHED_VALUES:
            return _formula(x, frequency, height)
        y = torch.empty_like(x)
        num_pieces = -(-x.numel() // CACHED_VALUES)
        for part, result in zip(x.chunk(num_pieces, -1), y.chunk(num_pieces, -1), strict=True):
            result.copy_(_formula(part, frequency, height))
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        (grad,) = grads
        x, frequency, height = ctx.saved_tensors
        angle = x * frequency
        grad = grad.to(angle.dtype)
        grad_x = grad_frequency = grad_height = None
        if ctx.needs_input_grad[2]:
            wave = angle.sin()
            grad_height = _per_channel(wave.mul_(wave).mul_(grad), height)
        # d/dz sin(z)^2 = sin(2 z)
        slope = angle.mul_(2).sin_().mul_(grad).mul_(height)  # d loss / d (frequency * x)
        if ctx.needs_input_grad[1]:
            grad_frequency = _per_channel(slope * x, frequency)
        if ctx.needs_input_grad[0]:
            grad_x = slope.mul_(frequency).add_(grad).to(x.dtype)
        return grad_x, grad_frequency, grad_height


def _per_channel(values: Tensor, like: Tensor) -> Tensor:
    return values.sum(dim=(0, 2)).view_as(like)


def snake(x: Tensor, frequency: Tensor, height: Tensor) -> Tensor:
    """``x + height * sin(frequency * x)^2``.

    Args:
        x: (B, C, T)
        frequency: (C, 1), float32.
        height: (C, 1), float32.

    Returns:
        (B, C, T), of the type of ``x``.
    """
    return _Snake.apply(x, frequency, height)  # pyright: ignore[reportReturnType]
