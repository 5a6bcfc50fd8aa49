"""Masks for inpainting: 1 is kept and seen by the network, 0 is made anew. Drawn from Python's random stream, item by item."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor

RANDOM_SEGMENTS, FULL, CAUSAL, RANDOM_SPANS = range(4)


def random_inpaint_mask(
    sequence: Tensor,
    padding_masks: Tensor,
    max_mask_segments: int = 10,
    mask_type_probabilities: Sequence[float] = (0.1, 0.8, 0.1),
    *,
    max_spans: int = 4,
    mask_ratio_range: Sequence[float] = (0.2, 1.0),
    span_count_weights: Sequence[float] = (4.0, 2.0, 1.0, 1.0),
    mask_padding: bool = False,
) -> tuple[Tensor, Tensor]:
    """What an inpainting model gets to see of training items.

    Args:
        sequence: (B, D, L)
        padding_masks: (B, L), True on content, which begins at 0.
        max_mask_segments: Most segments of a `segments_mask`.
        mask_type_probabilities: Of random segments, everything, all after some point and, if there is a fourth, random spans.
        max_spans: Most spans of a `spans_mask`.
        mask_ratio_range: Smallest and largest share of the content that a `spans_mask` hides.
        span_count_weights: How often a `spans_mask` has 1, 2, ... spans.
        mask_padding: Padding is never kept.

    Returns:
        The sequence times the mask, and the mask (B, 1, L).

    Raises:
        ValueError: If there are not three or four probabilities.
    """
    if len(mask_type_probabilities) not in (3, 4):
        raise ValueError(f"mask_type_probabilities needs 3 or 4 numbers, got {len(mask_type_probabilities)}")
    length = sequence.shape[-1]
    contents = [int(count) for count in padding_masks.bool().sum(dim=-1).cpu()]
    masks: list[Tensor] = []
    for content in contents:
        (kind,) = random.choices(range(len(mask_type_probabilities)), weights=mask_type_probabilities)
        if kind == FULL:
            mask = torch.zeros(length)
        elif content == 0:
            mask = torch.ones(length)
        elif kind == RANDOM_SEGMENTS:
            mask = segments_mask(length, content, max_mask_segments)
        elif kind == CAUSAL:
            mask = causal_mask(length, content)
        else:
            mask = spans_mask(length, content, max_spans, mask_ratio_range, span_count_weights)
        masks.append(mask)
    stacked = torch.stack(masks)[:, None].to(sequence)  # (B, 1, L)
    if mask_padding:
        stacked = stacked * padding_masks[:, None].to(sequence)
    return sequence * stacked, stacked


def segments_mask(length: int, content: int, max_segments: int = 10) -> Tensor:
    """1 to ``max_segments`` segments, which may overlap, are hidden: (L,)."""
    mask = torch.ones(length)
    segments = random.randint(1, max_segments)
    longest = max(1, content // segments)
    for _ in range(segments):
        width = random.randint(1, longest)
        if width <= content:
            start = random.randint(0, content - width)
            mask[start : start + width] = 0
    return mask


def causal_mask(length: int, content: int) -> Tensor:
    """All content after some point is hidden: (L,)."""
    mask = torch.ones(length)
    mask[random.randint(0, content) : content] = 0
    return mask


def spans_mask(
    length: int,
    content: int,
    max_spans: int = 4,
    mask_ratio_range: Sequence[float] = (0.2, 1.0),
    span_count_weights: Sequence[float] = (4.0, 2.0, 1.0, 1.0),
) -> Tensor:
    """A random share of the content is hidden, in a few spans that do not overlap: (L,)."""
    mask = torch.ones(length)
    hidden = max(1, int(random.uniform(*mask_ratio_range) * content))
    (count,) = random.choices(range(1, max_spans + 1), weights=span_count_weights[:max_spans])
    taken: list[tuple[int, int]] = []
    for width in sorted(_random_parts(hidden, min(count, hidden)), reverse=True):
        start = _free_place(content, width, taken)
        if start is not None:
            taken.append((start, start + width))
            mask[start : start + width] = 0
    return mask


def _random_parts(total: int, count: int) -> list[int]:
    """``count`` positive whole numbers with the sum ``total``."""
    weights = [random.random() for _ in range(count)]
    parts = [max(1, int(total * weight / sum(weights))) for weight in weights]
    parts[parts.index(max(parts))] += total - sum(parts)
    return parts


def _free_place(content: int, width: int, taken: Sequence[tuple[int, int]]) -> int | None:
    """Where a span fits: somewhere random, else the first place; None if nowhere."""

    def is_free(start: int) -> bool:
        return all(start + width <= low or start >= high for low, high in taken)

    for _ in range(50):
        start = random.randint(0, content - width)
        if is_free(start):
            return start
    candidates = [0, *sorted(high for _, high in taken)]
    return next((start for start in candidates if start + width <= content and is_free(start)), None)
