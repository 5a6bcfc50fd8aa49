"""extract_adapter: an adapter from the difference of two models."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from stable_audio_tools.errors import CheckpointError
from stable_audio_tools.models.adapters.files import AdapterFile, base_hash
from stable_audio_tools.models.adapters.targets import choose_layers

logger = logging.getLogger(__name__)


class Extracted(NamedTuple):
    """What became of a difference.

    Attributes:
        adapter: The adapter, of kind ``lora``.
        captured: Share of the squared difference that it makes, from 0 to 1.
        left_out: Names of tensors that differ and that it does not change: biases, norms, and layers that were not chosen.
    """

    adapter: AdapterFile
    captured: float
    left_out: list[str]


@torch.no_grad()
def extract_adapter(
    model: nn.Module,
    tuned: Mapping[str, Tensor],
    *,
    rank: int = 8,
    targets: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
) -> Extracted:
    """The low-rank adapter that comes closest to what fine-tuning did to a model: a truncated singular value decomposition per layer.

    Args:
        model: The model from before.
        tuned: State dict of the model from after.
        rank: Of the adapter.
        targets: Patterns of names of layers; None is every linear and convolution layer of the network.
        exclude: Patterns of names that are left out.

    Raises:
        CheckpointError: If the two are not of one model, or no chosen layer differs.
        ConfigError: If a pattern matches nothing.
    """
    before, tuned = plain_weights(model.state_dict()), plain_weights(tuned)
    differing = [name for name in before if name not in tuned or tuned[name].shape != before[name].shape]
    if differing:
        text = f"the two checkpoints are not of the same model: {', '.join(differing[:4])}"
        raise CheckpointError(f"{text}{' ...' if len(differing) > 4 else ''} is missing in the second, or has another shape")
    layers = choose_layers(model, "lora", targets, exclude)
    changed = [name for name in before if before[name].is_floating_point() and not torch.equal(before[name], tuned[name].to(before[name]))]
    tensors: dict[str, dict[str, Tensor]] = {}
    total = sum(float((tuned[name].float().to(before[name].device) - before[name].float()).square().sum()) for name in changed)
    kept = 0.0
    for name in layers:
        if f"{name}.weight" in changed:
            base = before[f"{name}.weight"]
            difference = tuned[f"{name}.weight"].to(base.device).float() - base.float()
            left, values, right = torch.linalg.svd(difference.flatten(1), full_matrices=False)
            size = min(rank, len(values))
            roots = values[:size].sqrt()
            kept += float(values[:size].square().sum())
            tensors[name] = _padded(left[:, :size] * roots, right[:size] * roots[:, None], rank, base)
    if not tensors:
        raise CheckpointError("the two checkpoints have the same weights in every chosen layer: there is nothing to extract")
    left_out = [name for name in changed if name.removesuffix(".weight") not in tensors]
    header = {"base_hash": base_hash({name: before[f"{name}.weight"] for name in tensors})}
    adapter = AdapterFile("extracted", "lora", {"rank": rank, "alpha": float(rank)}, tensors, header)
    return Extracted(adapter, kept / total, left_out)


def plain_weights(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with the ``weight`` of weight-normalised layers, in place of ``weight_g`` and ``weight_v``."""
    normalised = [name.removesuffix("_g") for name in state_dict if name.endswith("weight_g") and f"{name[:-1]}v" in state_dict]
    plain = {name: torch._weight_norm(state_dict[f"{name}_v"], state_dict[f"{name}_g"], 0) for name in normalised}
    hidden = {f"{name}_{part}" for name in normalised for part in "gv"}
    return {**{name: tensor for name, tensor in state_dict.items() if name not in hidden}, **plain}


def _padded(up: Tensor, down: Tensor, rank: int, weight: Tensor) -> dict[str, Tensor]:
    """Tensors by peft's names, of the full rank: a small layer has fewer singular values."""
    missing = rank - up.shape[1]
    up, down = torch.nn.functional.pad(up, (0, missing)), torch.nn.functional.pad(down, (0, 0, 0, missing))
    ones = [1] * (weight.dim() - 2)
    return {"lora_A.weight": down.reshape(rank, *weight.shape[1:]), "lora_B.weight": up.reshape(up.shape[0], rank, *ones)}
