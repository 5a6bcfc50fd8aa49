"""Draw tokens from logits: temperature, top-k, top-p."""

from __future__ import annotations

import torch
from torch import Tensor

from stable_audio_tools.errors import ConfigError


def sample_tokens(
    logits: Tensor, *, temp: float = 1.0, top_k: int = 250, top_p: float = 0.0, generator: torch.Generator | None = None
) -> Tensor:
    """One token per distribution.

    Args:
        logits: (..., V)
        temp: Temperature: below 1 prefers likely tokens; 0 takes the likeliest.
        top_k: Draw among the k likeliest (and those as likely as the last of them); 0 is no limit. Without effect if ``top_p`` is given.
        top_p: Draw among the likeliest that together just exceed this probability; 0 is no limit.
        generator: Source of randomness on the device of ``logits``; None is torch's global one.

    Returns:
        (...,) of integers in [0, V).

    Raises:
        ConfigError: If an option is out of range.
    """
    if temp < 0 or top_k < 0 or not 0 <= top_p <= 1:
        raise ConfigError(f"need temp >= 0, top_k >= 0 and top_p in [0, 1], got {temp}, {top_k} and {top_p}")
    if temp == 0:
        return logits.argmax(dim=-1)
    probabilities = torch.softmax(logits.float() / temp, dim=-1)
    if top_p > 0:
        return _sample_top_p(probabilities, top_p, generator)
    return _draw(keep_top_k(probabilities, top_k) if top_k > 0 else probabilities, generator)


def keep_top_k(probabilities: Tensor, k: int) -> Tensor:
    """Zero all but the k likeliest tokens, and those as likely as the last of them; the rest sums to 1 again.

    >>> keep_top_k(torch.tensor([0.5, 0.3, 0.1, 0.1]), 2).tolist()
    [0.625, 0.375, 0.0, 0.0]
    """
    threshold = probabilities.topk(min(k, probabilities.shape[-1]), dim=-1).values[..., -1:]
    kept = torch.where(probabilities >= threshold, probabilities, 0.0)
    return kept / kept.sum(dim=-1, keepdim=True)


def _sample_top_p(probabilities: Tensor, p: float, generator: torch.Generator | None) -> Tensor:
    """Draw without the tokens before which the likelier ones already exceed p. Source: Holtzman et al. 2020, arXiv:1904.09751."""
    ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
    kept = torch.where(ordered.cumsum(dim=-1) - ordered > p, 0.0, ordered)
    # Drawn in order of likelihood, as published code does: the same seed gives the same token.
    place = _draw(kept / kept.sum(dim=-1, keepdim=True), generator)
    return order.gather(-1, place[..., None])[..., 0]


def _draw(probabilities: Tensor, generator: torch.Generator | None) -> Tensor:
    """One token per distribution: the race of exponential clocks, which needs no synchronisation with the device."""
    clocks = torch.empty_like(probabilities).exponential_(1, generator=generator)
    return (probabilities / clocks).argmax(dim=-1)
