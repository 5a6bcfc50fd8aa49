"""Snake on a GPU: one kernel per pass, which reads every value once. Needs Triton, which torch brings along where there is CUDA."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

triton: Any
tl: Any
try:
    triton, tl = importlib.import_module("triton"), importlib.import_module("triton.language")
    jit = triton.jit
except ImportError:  # then the functions below fail when they are called

    def jit(kernel: Any) -> Any:
        """Leave a kernel as it is."""
        return kernel


BLOCK = 1024  # steps per program


@jit
def _forward_kernel(x_ptr, frequency_ptr, height_ptr, y_ptr, channels, length, BLOCK: tl.constexpr):  # pyright: ignore[reportInvalidTypeForm]
    row = tl.program_id(0).to(tl.int64)  # of B * C
    steps = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    is_inside = steps < length
    frequency = tl.load(frequency_ptr + row % channels)
    height = tl.load(height_ptr + row % channels)
    x = tl.load(x_ptr + row * length + steps, mask=is_inside, other=0.0).to(tl.float32)
    wave = tl.sin(x * frequency)
    tl.store(y_ptr + row * length + steps, x + height * wave * wave, mask=is_inside)


@jit
def _backward_kernel(
    grad_ptr, x_ptr, frequency_ptr, height_ptr, in_x_ptr, in_frequency_ptr, in_height_ptr, channels, length,
    BLOCK: tl.constexpr,  # pyright: ignore[reportInvalidTypeForm]
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)  # of B * C
    steps = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    is_inside = steps < length
    frequency = tl.load(frequency_ptr + row % channels)
    height = tl.load(height_ptr + row % channels)
    x = tl.load(x_ptr + row * length + steps, mask=is_inside, other=0.0).to(tl.float32)
    grad = tl.load(grad_ptr + row * length + steps, mask=is_inside, other=0.0).to(tl.float32)
    wave = tl.sin(x * frequency)
    slope = grad * height * tl.sin(2 * x * frequency)  # d loss / d (frequency * x)
    tl.store(in_x_ptr + row * length + steps, grad + slope * frequency, mask=is_inside)
    # One sum per program, added up outside: atomic additions would come in another order every time.
    part = row * tl.num_programs(1) + tl.program_id(1)
    tl.store(in_frequency_ptr + part, tl.sum(slope * x, axis=0))
    tl.store(in_height_ptr + part, tl.sum(grad * wave * wave, axis=0))


def forward(x: Tensor, frequency: Tensor, height: Tensor) -> Tensor:
    """See `stable_audio_tools.models.layers.snake.snake`."""
    x = x.contiguous()
    y = torch.empty_like(x)
    channels, length = x.shape[1:]
    grid = (x.shape[0] * channels, triton.cdiv(length, BLOCK))
    _forward_kernel[grid](x, frequency.contiguous(), height.contiguous(), y, channels, length, BLOCK=BLOCK)
    return y


def backward(grad: Tensor, x: Tensor, frequency: Tensor, height: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, frequency and height.

    Args:
        grad: Of the output, (B, C, T).
        x: The input, (B, C, T).
        frequency: (C, 1)
        height: (C, 1)
    """
    grad, x = grad.contiguous(), x.contiguous()
    batch, channels, length = x.shape
    num_blocks = triton.cdiv(length, BLOCK)
    in_x = torch.empty_like(x)
    in_frequency, in_height = x.new_empty((2, batch, channels, num_blocks), dtype=torch.float32)
    _backward_kernel[(batch * channels, num_blocks)](
        grad, x, frequency.contiguous(), height.contiguous(), in_x, in_frequency, in_height, channels, length, BLOCK=BLOCK
    )
    return in_x, in_frequency.sum(dim=(0, 2)).view_as(frequency), in_height.sum(dim=(0, 2)).view_as(height)
