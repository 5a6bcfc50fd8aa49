"""Fitting weights to a model: what fits is copied or taken over, and what does not is reported by name."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from stable_audio_tools.checkpoint.kinds import StateDict, some

logger = logging.getLogger(__name__)


class LoadReport(NamedTuple):
    """What became of every tensor.

    Attributes:
        matched: Names that were copied.
        missing: Names that the model has and the file lacks.
        unexpected: Names that the file has and the model lacks.
        mismatched: Names whose shapes differ: name -> (shape in the file, shape in the model).
        matched_share: Copied elements, as a share of the model's.
    """

    matched: list[str]
    missing: list[str]
    unexpected: list[str]
    mismatched: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    matched_share: float

    @property
    def is_complete(self) -> bool:
        """Whether the model got everything it has."""
        return not self.missing and not self.mismatched

    def __str__(self) -> str:
        total = len(self.matched) + len(self.missing) + len(self.mismatched)
        parts = [f"{len(self.matched)} of the model's {total} tensors loaded ({self.matched_share:.1%} of its weights)"]
        if self.missing:
            parts.append(f"missing in the file: {some(self.missing)}")
        if self.mismatched:
            shapes = [f"{name} {list(theirs)} instead of {list(ours)}" for name, (theirs, ours) in self.mismatched.items()]
            parts.append(f"of another shape: {some(shapes)}")
        if self.unexpected:
            parts.append(f"not in the model: {some(self.unexpected)}")
        return "; ".join(parts)


def compare_state_dict(model: nn.Module, state_dict: Mapping[str, Tensor]) -> LoadReport:
    """What `copy_state_dict` would do. A tensor that the model has under several names needs to be stored under one of them only."""
    return _compare(model.state_dict(), with_aliases(model, state_dict))


def _compare(own: Mapping[str, Tensor], state_dict: Mapping[str, Tensor]) -> LoadReport:
    matched = [name for name, tensor in own.items() if name in state_dict and state_dict[name].shape == tensor.shape]
    mismatched = {
        name: (tuple(state_dict[name].shape), tuple(tensor.shape))
        for name, tensor in own.items()
        if name in state_dict and state_dict[name].shape != tensor.shape
    }
    elements = sum(tensor.numel() for tensor in own.values())
    return LoadReport(
        matched,
        [name for name in own if name not in state_dict],
        [name for name in state_dict if name not in own],
        mismatched,
        sum(own[name].numel() for name in matched) / max(elements, 1),
    )


def with_aliases(model: nn.Module, state_dict: Mapping[str, Tensor]) -> StateDict:
    """A state dict with every name of each shared tensor of a model, if it has one of them.

    safetensors' ``save_model`` stores a tensor once that a model has under several names (shared codebooks, tied embeddings).
    """
    names: dict[int, list[str]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        names.setdefault(id(tensor), []).append(name)
    filled = dict(state_dict)
    for aliases in names.values():
        stored = next((state_dict[name] for name in aliases if name in state_dict), None)
        if stored is not None:
            filled |= {name: stored for name in aliases if name not in state_dict}
    return filled


def copy_state_dict(model: nn.Module, state_dict: Mapping[str, Tensor]) -> LoadReport:
    """Copy what fits by name and shape; report, and warn about, what did not."""
    report = copy_matching(model, state_dict)
    if not report.is_complete:
        logger.warning("copy_state_dict: %s", report)
    return report


def copy_matching(model: nn.Module, state_dict: Mapping[str, Tensor]) -> LoadReport:
    """Copy what fits by name and shape. Tensors on the meta device have no memory to copy to, and are replaced by those of the file."""
    own, filled = model.state_dict(), with_aliases(model, state_dict)
    report = _compare(own, filled)
    with torch.no_grad():
        for name in report.matched:
            if not own[name].is_meta:
                own[name].copy_(filled[name])
    empty = {name: filled[name].clone() for name in report.matched if own[name].is_meta}
    if empty:
        assign_state_dict(model, empty)
    return report


def assign_state_dict(model: nn.Module, state_dict: Mapping[str, Tensor]) -> None:
    """Give a model tensors without copying them where the data types agree. What the model shares stays shared.

    Args:
        model: Usually built without weights.
        state_dict: Tensors that fit; names that it lacks stay as they are.
    """
    places: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                places.setdefault(id(parameter), []).append((module, name))
    own = model.state_dict()
    filled = with_aliases(model, state_dict)
    model.load_state_dict({name: tensor.to(own[name].dtype) for name, tensor in filled.items()}, strict=False, assign=True)
    for (first, first_name), *others in places.values():
        for module, name in others:
            module._parameters[name] = first._parameters[first_name]
