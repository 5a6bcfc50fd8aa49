"""Which of the texts in a sample's metadata is its prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_IS_OWN = "__own_prompt__"


def stored(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata as a sample keeps it: it says so if its prompt is not its ``text``, as it is by custom."""
    is_told_apart = "prompt" in metadata and metadata.get("text", metadata["prompt"]) != metadata["prompt"]
    return {**metadata, _IS_OWN: True} if is_told_apart else dict(metadata)


def settled(said: Mapping[str, Any], prompt: str | None) -> dict[str, Any]:
    """Metadata with its prompt.

    Args:
        said: What a sample keeps.
        prompt: What is said elsewhere. Its own, or its ``caption``, goes before that, and its ``text`` before all, unless `stored` says
            otherwise.

    >>> settled({"prompt": "drums", "text": "a loop of drums"}, None)["prompt"]
    'a loop of drums'
    >>> settled(stored({"prompt": "drums", "text": "a loop of drums"}), None)["prompt"]
    'drums'
    >>> [settled(said, "a file")["prompt"] for said in ({}, {"caption": "a caption"}, {"prompt": "drums"})]
    ['a file', 'a caption', 'drums']
    """
    metadata = {} if prompt is None else {"prompt": prompt}
    metadata |= {key: value for key, value in said.items() if key != _IS_OWN}
    if "text" in said and _IS_OWN not in said:
        metadata["prompt"] = said["text"]
    elif "caption" in said and "prompt" not in said:
        metadata["prompt"] = said["caption"]
    return metadata
