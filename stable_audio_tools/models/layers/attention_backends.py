"""attend(): the one place where softmax(q k^T) v is computed, and where it is decided how."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.nn.functional as F
from torch import Tensor

from stable_audio_tools.errors import ConfigError

# Up to this many scores per head the explicit product stays in the cache. Measured on a 2-core CPU with AVX-512 bfloat16 at shape
# (64, 4, 65, 64): forward and backward take 10 ms explicitly, 50 ms through the fused kernel, whose backward pass multiplies in float32.
MAX_EXPLICIT_SCORES = 512 * 512
BACKENDS = ("auto", "fused", "explicit")
VARIABLE = "SAT_ATTENTION_BACKEND"
_chosen: ContextVar[str | None] = ContextVar("attention_backend", default=None)


def attention_backend() -> str:
    """How attention is computed: ``fused`` (torch's kernels), ``explicit`` (plain matrix products), or ``auto``, the faster of the two.

    `use_attention_backend` chooses, otherwise the environment variable ``SAT_ATTENTION_BACKEND``, otherwise it is ``auto``.

    Raises:
        ConfigError: If the variable names something else.
    """
    return _chosen.get() or _known(os.environ.get(VARIABLE) or "auto", VARIABLE)


@contextmanager
def use_attention_backend(name: str) -> Iterator[None]:
    """Compute attention in this way, inside the block and in this thread.

    Raises:
        ConfigError: If there is no such way.
    """
    token = _chosen.set(_known(name, "attention backend"))
    try:
        yield
    finally:
        _chosen.reset(token)


def _known(name: str, what: str) -> str:
    if name not in BACKENDS:
        raise ConfigError(f"{what} must be one of {', '.join(BACKENDS)}, got {name!r}")
    return name


def attend(q_BHLE: Tensor, k_BHSE: Tensor, v_BHSE: Tensor, *, mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
    """Scaled dot-product attention.

    `attention_backend` says how. ``auto`` takes torch's fused kernels, except for short sequences in half precision on a CPU, where
    explicit products are faster.

    Args:
        q_BHLE: Queries.
        k_BHSE: Keys.
        v_BHSE: Values.
        mask: (L, S) or broadcastable to (B, H, L, S), True = attend; not together with ``is_causal``.
        is_causal: A query sees only keys up to its own position.

    Returns:
        (B, H, L, E)
    """
    backend = attention_backend()
    if backend == "auto":
        is_half_on_cpu = q_BHLE.device.type == "cpu" and q_BHLE.dtype in (torch.bfloat16, torch.float16)
        is_short = q_BHLE.shape[-2] * k_BHSE.shape[-2] <= MAX_EXPLICIT_SCORES
        backend = "explicit" if is_half_on_cpu and is_short else "fused"
    if backend == "explicit":
        return _explicit(q_BHLE, k_BHSE, v_BHSE, mask, is_causal)
    return F.scaled_dot_product_attention(q_BHLE, k_BHSE, v_BHSE, attn_mask=mask, is_causal=is_causal)


def _explicit(q_BHLE: Tensor, k_BHSE: Tensor, v_BHSE: Tensor, mask: Tensor | None, is_causal: bool) -> Tensor:
    scores_BHLS = (q_BHLE * q_BHLE.shape[-1] ** -0.5) @ k_BHSE.transpose(-1, -2)
    if is_causal:
        mask = torch.ones(scores_BHLS.shape[-2:], dtype=torch.bool, device=scores_BHLS.device).tril()
    if mask is not None:
        scores_BHLS = scores_BHLS.masked_fill(~mask, float("-inf"))
    # Softmax computes in float32 anyway; a result in float32 is for its backward pass, which starts from it. Without one, rounding at once
    # saves a copy: at shape (2, 24, 257, 64) in bfloat16 all of this takes 2.4 ms instead of 12.8 on two cores, torch's fused kernel 5.9.
    dtype = torch.float32 if scores_BHLS.requires_grad else None
    return torch.softmax(scores_BHLS, dim=-1, dtype=dtype).to(v_BHSE.dtype) @ v_BHSE


MIN_BLOCK = 64  # queries per block of `attend_in_window`: fewer make more of the work a border, more compute scores that are thrown away


def narrow_window(length: int, window: Sequence[int]) -> tuple[int, int] | None:
    """The window as (left, right) if it is so much narrower than the sequence that `attend_in_window` pays; otherwise None.

    Args:
        length: Sequence length.
        window: (left, right): number of neighbours on each side; -1 is no limit.
    """
    left, right = window
    block = max(MIN_BLOCK, left + right)
    return (left, right) if left >= 0 and right >= 0 and length > 2 * (block + left + right) else None


def attend_in_window(q_BHLE: Tensor, k_BHLE: Tensor, v_BHLE: Tensor, *, left: int, right: int) -> Tensor:
    """Self-attention in which a query sees ``left`` neighbours before and ``right`` after itself.

    Time and memory grow with length times window. Blocks of queries attend to the keys that any of them sees, which are overlapping views,
    not copies. Measured on one core at shape (1, 12, 8704, 64), window 17 on both sides, against a full mask: 0.6 s instead of 7.4 s in
    float32, 0.09 s instead of 5.4 s in bfloat16.

    Args:
        q_BHLE: Queries.
        k_BHLE: Keys.
        v_BHLE: Values.
        left: Neighbours before, at least 0.
        right: Neighbours after, at least 0.

    Returns:
        (B, H, L, E)
    """
    batch, heads, length, _ = q_BHLE.shape
    block = max(MIN_BLOCK, left + right)
    num_blocks = -(-length // block)
    surplus = num_blocks * block - length
    q = F.pad(q_BHLE, (0, 0, 0, surplus)).flatten(0, 1).unflatten(1, (num_blocks, block))  # (B * H, blocks, block, E)
    width = block + left + right
    k, v = (
        F.pad(x, (0, 0, left, right + surplus)).flatten(0, 1).unfold(1, width, block).transpose(2, 3)  # (B * H, blocks, width, E)
        for x in (k_BHLE, v_BHLE)
    )
    row = torch.arange(block, device=q.device)[:, None]
    column = torch.arange(width, device=q.device)
    is_near = (column >= row) & (column <= row + left + right)  # (block, width)
    first = torch.arange(num_blocks, device=q.device)[:, None, None] * block
    key, query = first + column - left, first + row  # positions in the sequence
    # Queries beyond the end see the padding: with nothing to see their result, though cut off, would be NaN, and so would gradients.
    mask = is_near & (((key >= 0) & (key < length)) | (query >= length))  # (blocks, block, width)
    out = attend(q, k, v, mask=mask)
    return out.flatten(1, 2)[:, :length].unflatten(0, (batch, heads))
