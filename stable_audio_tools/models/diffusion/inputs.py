"""ConditioningInputs: everything a denoising network is conditioned on, as one value that knows how to be dropped and doubled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.models.layers.kv_cache import Heads

Conditions = Mapping[str, Sequence[Any]]  # id -> (embedding, mask), or a list with the embedding alone


def require_conditions(conditions: Conditions, ids: Sequence[str]) -> None:
    """Refuse conditions that lack what a model is conditioned on, or that are for different numbers of items.

    Raises:
        ConfigError: Naming what is missing and what is there, or what each is for.
    """
    missing = [name for name in ids if name not in conditions]
    if missing:
        given = ", ".join(conditions) or "none"
        raise ConfigError(f"the model is conditioned on {', '.join(map(repr, missing))}, which is missing; given: {given}")
    sizes = {name: conditions[name][0].shape[0] for name in ids}
    if len(set(sizes.values()) - {1}) > 1:
        listed = ", ".join(f"{name!r} for {size}" for name, size in sizes.items())
        raise ConfigError(f"conditions must all be for the same number of items, or for one item that stands for all; got {listed}")


def sequence_of(conditions: Conditions, ids: Sequence[str]) -> tuple[Tensor | None, Tensor | None]:
    """Embeddings (B, S, D) and masks (B, S) of several conditions, concatenated along the sequence; None if there are none."""
    embeddings: list[Tensor] = []
    masks: list[Tensor] = []
    for name in ids:
        embedding = conditions[name][0]
        mask = conditions[name][1] if len(conditions[name]) > 1 else None
        if embedding.dim() == 2:
            embedding = embedding[:, None]
            mask = mask[:, None] if mask is not None and mask.dim() == 1 else mask
        if mask is None:
            mask = torch.ones(embedding.shape[:2], device=embedding.device)
        embeddings.append(embedding)
        masks.append(mask)
    if not embeddings:
        return None, None
    return _joined(embeddings, dim=1), _joined([mask.to(masks[0].device) for mask in masks], dim=1)


def vector_of(conditions: Conditions, ids: Sequence[str]) -> Tensor | None:
    """Embeddings (B, D) or (B, 1, D) of several conditions, concatenated along channels: (B, G); None if there are none."""
    if not ids:
        return None
    vector = _joined([conditions[name][0] for name in ids], dim=-1)
    return vector.squeeze(1) if vector.dim() == 3 else vector  # (B, G)


def channels_of(conditions: Conditions, ids: Sequence[str]) -> Tensor | None:
    """Embeddings (B, C, L) of several conditions, concatenated along channels; None if there are none."""
    return _joined([conditions[name][0] for name in ids], dim=1) if ids else None


def _joined(tensors: Sequence[Tensor], dim: int) -> Tensor:
    batch = max(tensor.shape[0] for tensor in tensors)
    return torch.cat([fit_batch(tensor, batch, "condition") for tensor in tensors], dim=dim)


def fit_batch(tensor: Tensor, batch: int, name: str) -> Tensor:
    """A condition for ``batch`` items; what is for one item is for all.

    Raises:
        ConfigError: If it is for another number of items.
    """
    if tensor.shape[0] == batch:
        return tensor
    if tensor.shape[0] != 1:
        raise ConfigError(f"{name} is for {tensor.shape[0]} items, but the batch has {batch}; give one for each, or one for all")
    return tensor.expand(batch, *tensor.shape[1:])


@dataclass(frozen=True)
class ConditioningInputs:
    """What reaches a backbone besides the noisy input.

    Attributes:
        cross_attn: (B, S, D), attended to.
        cross_attn_mask: (B, S), True where it means something.
        global_cond: (B, G), for the whole sequence.
        input_concat: (B, C, L), concatenated to the input's channels.
        prepend: (B, P, D), put before the sequence.
        prepend_mask: (B, P)
        keys_values: Per block, what its cross-attention needs of ``cross_attn``, instead of it. Rows after the batch's own belong to what
            guidance pushes away from.
        local_add: (B, C, L), embedded and added in every block.
        modular_local: Further ones by id.
        padding_mask: (B, L), False where the sequence is padding.
    """

    cross_attn: Tensor | None = None
    cross_attn_mask: Tensor | None = None
    global_cond: Tensor | None = None
    input_concat: Tensor | None = None
    prepend: Tensor | None = None
    prepend_mask: Tensor | None = None
    keys_values: Sequence[Heads | None] | None = None
    local_add: Tensor | None = None
    modular_local: Mapping[str, Tensor] | None = None
    padding_mask: Tensor | None = None

    def to(self, dtype: torch.dtype) -> ConditioningInputs:
        """All but the masks in another data type."""

        def cast(tensor: Tensor | None) -> Tensor | None:
            return tensor if tensor is None else tensor.to(dtype)

        return replace(
            self,
            cross_attn=cast(self.cross_attn),
            global_cond=cast(self.global_cond),
            input_concat=cast(self.input_concat),
            prepend=cast(self.prepend),
            local_add=cast(self.local_add),
            modular_local={name: value.to(dtype) for name, value in self.modular_local.items()} if self.modular_local else None,
        )

    def for_batch(self, batch: int) -> ConditioningInputs:
        """What is for one item repeated for all.

        Raises:
            ConfigError: If something is for another number of items.
        """
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        for heads in self.keys_values or ():
            rows = {head.shape[0] for head in heads.values()} if heads else set()
            if not rows <= {batch, 2 * batch}:
                raise ConfigError(f"cross_attn is for {max(rows)} items, but the batch has {batch}; give one for each")
        tensors = {name: fit_batch(value, batch, name) for name, value in given.items() if isinstance(value, Tensor)}
        modular = {name: fit_batch(value, batch, name) for name, value in (self.modular_local or {}).items()}
        return replace(self, **tensors, modular_local=modular or None)

    @property
    def is_guidable(self) -> bool:
        """Whether there is a condition that guidance can leave out."""
        return self.cross_attn is not None or self.keys_values is not None or self.prepend is not None

    def dropped(self, probability: float) -> ConditioningInputs:
        """For training: cross-attention and, independently, prepended conditions of random items become zero.

        Global and concatenated conditions always stay.
        """

        def drop(tensor: Tensor | None) -> Tensor | None:
            if tensor is None:
                return None
            is_null = torch.bernoulli(torch.full((tensor.shape[0], 1, 1), probability, device=tensor.device)).bool()
            return torch.where(is_null, torch.zeros_like(tensor), tensor)

        return replace(self, cross_attn=drop(self.cross_attn), prepend=drop(self.prepend))

    def with_null(self, negative: Tensor | None = None, negative_mask: Tensor | None = None) -> ConditioningInputs:
        """The batch twice: first as it is, then without what guidance leaves out.

        What the blocks of a transformer take for both halves (local conditions) stays as it is. So does the cross-attention condition
        without a negative one: it is then shorter than the batch, and the rest has none.

        Args:
            negative: Cross-attention condition of the second half, (B, S, D); None is none.
            negative_mask: (B, S); its padding becomes zero.
        """

        def twice(tensor: Tensor | None) -> Tensor | None:
            return tensor if tensor is None else torch.cat([tensor, tensor])

        cross_attn = self.cross_attn
        if cross_attn is not None and negative is not None:
            negative = negative.to(cross_attn.dtype)
            if negative_mask is not None:
                negative = torch.where(negative_mask.bool()[..., None], negative, torch.zeros_like(negative))
            cross_attn = torch.cat([cross_attn, negative])
        prepend = self.prepend
        if prepend is not None:
            prepend = torch.cat([prepend, torch.zeros_like(prepend)])
        return replace(
            self,
            cross_attn=cross_attn,
            cross_attn_mask=twice(self.cross_attn_mask),
            global_cond=twice(self.global_cond),
            input_concat=twice(self.input_concat),
            prepend=prepend,
            prepend_mask=twice(self.prepend_mask),
            padding_mask=twice(self.padding_mask),
        )

    def without_negative(self, batch_size: int) -> ConditioningInputs:
        """Without what is only there for guidance."""
        if self.keys_values is None:
            return self
        own = [heads and {name: head[:batch_size] for name, head in heads.items()} for heads in self.keys_values]
        return replace(self, keys_values=own)
