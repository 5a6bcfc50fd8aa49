"""Snake as one function against its plain formula; explicit attention against the fused kernel, on this machine's CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timing import compare

from stable_audio_tools.models.layers.attention_backends import attend
from stable_audio_tools.models.layers.snake import snake


def main() -> None:
    torch.manual_seed(0)
    print(f"{torch.get_num_threads()} threads; forward and backward; the ratio says how much faster ours is")
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.randn(8, 64, 8192).to(dtype).requires_grad_()
        frequency, height = torch.ones(64, 1, requires_grad=True), torch.ones(64, 1, requires_grad=True)
        compare(
            f"snake (8, 64, 8192) {dtype}",
            lambda x=x, f=frequency, h=height: snake(x, f, h).sum().backward(),
            "plain formula",
            lambda x=x, f=frequency, h=height: (x + h * torch.sin(x * f).square()).sum().backward(),
        )
    for length in (33, 65, 257, 513):
        q, k, v = (torch.randn(32, 4, length, 64, dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
        compare(
            f"attend (32, 4, {length}, 64) bfloat16",
            lambda q=q, k=k, v=v: attend(q, k, v).sum().backward(),
            "fused kernel",
            lambda q=q, k=k, v=v: F.scaled_dot_product_attention(q, k, v).sum().backward(),
        )


if __name__ == "__main__":
    main()
