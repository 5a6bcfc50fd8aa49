"""TransformerCache: what a causal transformer has computed for the tokens so far, so that the next one costs one step and not all."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Heads = dict[str, Tensor]  # name ("k", "v", ...) -> (B, G, S, E)
FIRST_CAPACITY = 64  # positions


class AttentionCache:
    """Keys and values of one attention."""

    def __init__(self) -> None:
        self._buffers: Heads = {}
        self._lengths: dict[str, int] = {}

    def append(self, name: str, new: Tensor) -> Tensor:
        """Add positions, for self-attention, and return all so far. Buffers grow by doubling: what is there is seldom copied.

        Args:
            name: Which of the attention's tensors.
            new: (B, G, L, E)

        Returns:
            (B, G, S, E) with the new positions last; a view, which later calls do not change.
        """
        start = self._lengths.get(name, 0)
        end = start + new.shape[2]
        buffer = self._buffers.get(name)
        if buffer is None or buffer.shape[2] < end:
            grown = new.new_empty(*new.shape[:2], max(FIRST_CAPACITY, 2 * end), new.shape[3])
            if buffer is not None:
                grown[:, :, :start] = buffer[:, :, :start]
            self._buffers[name] = buffer = grown
        buffer[:, :, start:end] = new
        self._lengths[name] = end
        return buffer[:, :, :end]

    def once(self, compute: Callable[[], Heads]) -> Heads:
        """Keys and values of a context that does not change, for cross-attention: computed by the first call."""
        if not self._buffers:
            self._buffers = compute()
        return self._buffers


class LayerCache(NamedTuple):
    """The caches of one transformer block."""

    self_attn: AttentionCache
    cross_attn: AttentionCache


class TransformerCache:
    """The state of a `ContinuousTransformer` between calls that continue one sequence.

    Args:
        depth: Number of blocks.

    Attributes:
        length: Positions so far, with memory tokens and prepended ones.
        key_mask: (B, S), False where a prepended position is padding; None if none is.
        context: What blocks cross-attend to, embedded, (B, S, dim_context).
    """

    def __init__(self, depth: int) -> None:
        self.length = 0
        self.layers = [LayerCache(AttentionCache(), AttentionCache()) for _ in range(depth)]
        self.key_mask: Tensor | None = None
        self.context: Tensor | None = None


def attention_mask(num_queries: int, num_keys: int, *, window: tuple[int, int], key_mask: Tensor | None, device: torch.device) -> Tensor:
    """Which key each query of a causal attention sees, where the queries are the last of the keys' positions.

    Args:
        num_queries: L
        num_keys: S >= L
        window: (left, right): number of neighbours on each side; -1 is no limit. Later keys are never seen.
        key_mask: (B, S), False where nobody looks, except a position at itself (a softmax over nothing is NaN).
        device: Where to make it.

    Returns:
        (L, S), or (B, 1, L, S) with ``key_mask``; True = sees.

    >>> attention_mask(2, 4, window=(1, -1), key_mask=None, device=torch.device("cpu")).int().tolist()
    [[0, 1, 1, 0], [0, 0, 1, 1]]
    """
    queries = torch.arange(num_keys - num_queries, num_keys, device=device)
    offset = torch.arange(num_keys, device=device)[None, :] - queries[:, None]  # key - query
    mask = offset <= 0
    if window[0] >= 0:
        mask = mask & (offset >= -window[0])
    if key_mask is None:
        return mask
    return (mask & key_mask[:, None, :]).logical_or(offset == 0)[:, None]  # (B, 1, L, S)
