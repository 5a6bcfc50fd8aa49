"""Pretrained encoders and tokenizers: found on disk or downloaded, and one frozen copy per process.

A frozen encoder is no part of the model that uses it: it is loaded when it is first needed, shared by all models of the process, and never
saved, so that a model builds, loads and saves without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from stable_audio_tools.errors import CheckpointError, DataError
from stable_audio_tools.models.conditioners.base import as_text


class Source(NamedTuple):
    """Where something pretrained comes from.

    Attributes:
        name: Hugging Face id, or a local folder.
        remedy: What to do where it cannot be had, for messages.
        subfolder: Folder inside it.
    """

    name: str
    remedy: str
    subfolder: str = ""

    @classmethod
    def given(cls, **settings: str | None) -> Source:
        """The first of several settings that is not None, by its key."""
        key, name = next((key, value) for key, value in settings.items() if value is not None)
        return cls(name, f"set {key} to a folder that holds it")

    def __str__(self) -> str:
        return repr(f"{self.name}/{self.subfolder}" if self.subfolder else self.name)


def fetch(loader: Any, source: Source, *, what: str = "text encoder", **options: Any) -> Any:
    """``loader.from_pretrained`` of a local folder, the local cache or the hub, in this order.

    Args:
        loader: A class of ``transformers``.
        source: What to load.
        what: What to call it in messages.
        **options: For ``from_pretrained``.

    Raises:
        CheckpointError: If it is in none of the three.
    """
    from transformers.utils import logging as transformers_logging

    show_progress = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # a bar for reading a local file says nothing
    try:
        if source.subfolder:
            options["subfolder"] = source.subfolder
        return loader.from_pretrained(source.name, **options)
    except (OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise CheckpointError(
            f"{what} {source}: it is neither a local folder nor in the local cache, and could not be downloaded ({reason}); "
            f"check the name and the network, or {source.remedy}"
        ) from error
    finally:
        if show_progress:
            transformers_logging.enable_progress_bar()


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
