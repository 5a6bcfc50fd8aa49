"""Snake as one function with a hand-written backward pass: a fraction of the memory and time of the five operations it replaces.

Autograd keeps four intermediate tensors of the plain formula; this keeps the input alone and works in place. Both passes compute in
float32 even if the input is in half precision.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class _Snake(torch.autograd.Function):
    """``y = x + height * sin(frequency * x)^2``, with one frequency and height per channel."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, frequency: Tensor, height: Tensor) -> Tensor:
        ctx.save_for_backward(x, frequency, height)
        wave = (x * frequency).sin_()
        return wave.mul_(wave).mul_(height).add_(x).to(x.dtype)

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
