"""Metadata of an item as a JSON file can hold it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

logger = logging.getLogger(__name__)
MAX_ELEMENTS = 16384  # of a tensor that is metadata, and not audio
_dropped: set[str] = set()


def plain_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata as JSON can hold it. What it cannot is left out, and named once."""
    plain: dict[str, Any] = {}
    for key, value in metadata.items():
        if key in ("padding_mask", "audio", "load_time"):  # written anew, or of no use
            continue
        try:
            plain[key] = _as_json(value)
        except TypeError as error:
            if key not in _dropped:
                _dropped.add(key)
                logger.warning("metadata %r is left out, since a JSON file cannot hold it: %s", key, error)
    return plain


def _as_json(value: Any) -> Any:
    if isinstance(value, (Tensor, np.ndarray)):
        count = value.numel() if isinstance(value, Tensor) else value.size
        if count > MAX_ELEMENTS:
            raise TypeError(f"{tuple(value.shape)} are too many numbers")
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {str(key): _as_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_as_json(item) for item in value]
    if isinstance(value, (str, int, float, bool, type(None))):
        return value
    raise TypeError(f"{type(value).__name__} is no number, text, list or object")
