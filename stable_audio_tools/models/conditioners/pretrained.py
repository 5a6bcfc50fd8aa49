"""Pretrained encoders and tokenizers: one frozen copy per process.

A frozen encoder is no part of the model that uses it: it is loaded when it is first needed, shared by all models of the process, and never
saved, so that a model builds, loads and saves without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from stable_audio_tools.errors import DataError
from stable_audio_tools.models.conditioners.base import as_text
from stable_audio_tools.models.layers.hub import Source, fetch


@cache
def tokenizer(source: Source) -> Any:
    """A tokenizer, once per process."""
    from transformers import AutoTokenizer

    return fetch(AutoTokenizer, source)


@lru_cache(maxsize=4)
def frozen(load: Callable[[Any], nn.Module], source: Any, device: torch.device, dtype: torch.dtype | None) -> nn.Module:
    """An encoder, frozen, once per process, device and data type.

    Args:
        load: Makes a new copy of it. A function of a module, since it is part of the key of the cache.
        source: What ``load`` takes, hashable.
        device: Where it computes.
        dtype: Data type of its weights; None keeps the one it was stored in.
    """
    with torch.inference_mode(False):  # weights made in inference mode could never take part in training
        encoder = load(source)
        return encoder.to(device=device, dtype=dtype).eval().requires_grad_(False)


def tokenize(tokens_of: Callable[[], Any], values: Sequence[Any], max_length: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Texts as token ids, padded to ``max_length``.

    Args:
        tokens_of: Gives the tokenizer; called only if there is text.
        values: Texts, or items that were tokenized before: mappings with ``input_ids`` and ``attention_mask``, (S,) each.
        max_length: Tokens per text S; longer text is cut.
        device: Where the result should be.

    Returns:
        Token ids (B, S) and mask (B, S), integers.

    Raises:
        DataError: If some items are texts and others are not.
    """
    are_tokens = [isinstance(value, Mapping) for value in values]
    if all(are_tokens):
        ids, mask = (torch.stack([torch.as_tensor(value[key]).flatten() for value in values]) for key in ("input_ids", "attention_mask"))
    elif any(are_tokens):
        raise DataError("some items of the batch are texts and others are tokens; tokenize all of them or none")
    else:
        texts = [as_text(value, "text") for value in values]
        tokens = tokens_of()(texts, truncation=True, max_length=max_length, padding="max_length", return_tensors="pt")
        ids, mask = tokens["input_ids"], tokens["attention_mask"]
    return ids.to(device), mask.to(device)  # (B, S), (B, S)


__all__ = ["Source", "fetch", "frozen", "tokenize", "tokenizer"]
