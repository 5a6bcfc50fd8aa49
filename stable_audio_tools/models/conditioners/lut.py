"""Condition on text through a table: one learned vector per token."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from stable_audio_tools.config.base import PositiveInt
from stable_audio_tools.families import CONDITIONERS
from stable_audio_tools.models.conditioners.base import Condition, Conditioner
from stable_audio_tools.models.conditioners.pretrained import Source, tokenize, tokenizer
from stable_audio_tools.models.layers.embeddings import AbsolutePositionalEmbedding
from stable_audio_tools.models.layers.parameters import dtype_of

# Tokens of published tokenizers, so that a model with one of them builds without network. Others are asked.
KNOWN_VOCABULARIES = {"google/byt5-small": 384, "google/byt5-base": 384, "google/byt5-large": 384, "google/byt5-xl": 384}


@CONDITIONERS.register("lut", reads="text", steps="many")
class TokenizerLUTConditioner(Conditioner):
    """Looks up one learned vector per token: (B, max_length, D), zeros where there is no text. For cross-attention or prepending.

    Args:
        output_dim: Width of the embedding.
        tokenizer_name: Hugging Face id of the tokenizer, or a local folder.
        max_length: Longest text, in tokens; longer text is cut.
        use_abs_pos_emb: Add a learned vector per position, also where there is no text.
        project_out: Have a linear layer at the end.
        special_tokens: Tokens to add to the tokenizer's own.
        model_path: A local folder to load the tokenizer from, instead of ``tokenizer_name``.
    """

    def __init__(
        self,
        output_dim: PositiveInt,
        tokenizer_name: str,
        max_length: PositiveInt = 1024,
        use_abs_pos_emb: bool = False,
        project_out: bool = False,
        special_tokens: Sequence[str] = (),
        model_path: str | None = None,
    ) -> None:
        super().__init__(output_dim, output_dim, project_out, padding_mode="zero")
        self.source = Source.given(model_path=model_path, tokenizer_name=tokenizer_name)
        self.special_tokens = tuple(special_tokens)
        self.max_length = max_length
        self.token_embedder = nn.Embedding(vocabulary_size(self.source, self.special_tokens), output_dim)
        self.abs_pos_emb = AbsolutePositionalEmbedding(output_dim, max_length) if use_abs_pos_emb else None

    def forward(self, values: Sequence[Any], device: torch.device | str) -> Condition:
        ids, mask = tokenize(partial(extended_tokenizer, self.source, self.special_tokens), values, self.max_length, torch.device(device))
        mask = mask.bool()  # (B, S)
        embedding = self.pad(self.project(self.token_embedder(ids)), mask)  # (B, S, D)
        if self.abs_pos_emb is not None:
            embedding = embedding + self.abs_pos_emb(embedding)
        return Condition(embedding.to(dtype_of(self)), mask)


def extended_tokenizer(source: Source, special_tokens: tuple[str, ...]) -> Any:
    """A tokenizer with further special tokens; others of the same source stay as they are."""
    if not special_tokens:
        return tokenizer(source)
    from copy import deepcopy

    extended = deepcopy(tokenizer(source))
    extended.add_special_tokens({"additional_special_tokens": list(special_tokens)})
    return extended


def vocabulary_size(source: Source, special_tokens: tuple[str, ...]) -> int:
    """Number of tokens.

    Raises:
        CheckpointError: If the tokenizer is neither known, nor on disk, nor can be downloaded.
    """
    if source.name in KNOWN_VOCABULARIES:
        return KNOWN_VOCABULARIES[source.name] + len(special_tokens)
    return len(extended_tokenizer(source, special_tokens))
