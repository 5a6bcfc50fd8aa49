"""attend(): the one place where softmax(q k^T) v is computed, and where it is decided how."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Up to this many scores per head the explicit product stays in the cache. Measured on a 2-core CPU with AVX-512 bfloat16 at shape
# (64, 4, 65, 64): forward and backward take 10 ms explicitly, 50 ms through the fused kernel, whose backward pass multiplies in float32.
MAX_EXPLICIT_SCORES = 512 * 512


def attend(q_BHLE: Tensor, k_BHSE: Tensor, v_BHSE: Tensor, *, mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
    """Scaled dot-product attention.

    Torch's fused kernels do it, except for short sequences in half precision on a CPU, where explicit products are faster.

    Args:
        q_BHLE: Queries.
        k_BHSE: Keys.
        v_BHSE: Values.
        mask: (L, S) or broadcastable to (B, H, L, S), True = attend; not together with ``is_causal``.
        is_causal: A query sees only keys up to its own position.

    Returns:
        (B, H, L, E)
    """
    is_half_on_cpu = q_BHLE.device.type == "cpu" and q_BHLE.dtype in (torch.bfloat16, torch.float16)
    if is_half_on_cpu and q_BHLE.shape[-2] * k_BHSE.shape[-2] <= MAX_EXPLICIT_SCORES:
        return _explicit(q_BHLE, k_BHSE, v_BHSE, mask, is_causal)
    return F.scaled_dot_product_attention(q_BHLE, k_BHSE, v_BHSE, attn_mask=mask, is_causal=is_causal)


def _explicit(q_BHLE: Tensor, k_BHSE: Tensor, v_BHSE: Tensor, mask: Tensor | None, is_causal: bool) -> Tensor:
    scores_BHLS = (q_BHLE * q_BHLE.shape[-1] ** -0.5) @ k_BHSE.transpose(-1, -2)
    if is_causal:
        mask = torch.ones(scores_BHLS.shape[-2:], dtype=torch.bool, device=scores_BHLS.device).tril()
    if mask is not None:
        scores_BHLS = scores_BHLS.masked_fill(~mask, float("-inf"))
    return torch.softmax(scores_BHLS, dim=-1, dtype=torch.float32).to(v_BHSE.dtype) @ v_BHSE
