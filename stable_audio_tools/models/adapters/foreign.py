"""Adapter files of other programs: LoRAW's, and those of Stable Audio 3 (version 0.0.20 of the reference writes the same)."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stable_audio_tools.errors import CheckpointError
from stable_audio_tools.models.adapters.changes import Change, LowRankChange

logger = logging.getLogger(__name__)
LORAW_NAMES = {"lora_down.weight": "down", "lora_up.weight": "up", "dora_mag.weight": "rows", "dora_mag.bias": None}
PARAMETRISED = ".parametrizations.weight."
SA3_NAMES = ("lora_A", "lora_B", "M_xs", "magnitude", "magnitude_r", "magnitude_c")
SA3_KINDS = ("lora", "dora-rows", "dora-cols", "bora", "lora-xs", "dora-rows-xs", "dora-cols-xs", "bora-xs")
SA3 = "Stable Audio 3"
LORAW_DORA = "loraw-dora"  # stretches the bias, too


class Found(NamedTuple):
    """An adapter of another program, in this library's words."""

    kind: str
    config: dict[str, Any]
    tensors: dict[str, dict[str, Tensor]]
    origin: str


def read(state_dict: Mapping[str, Tensor], metadata: Mapping[str, str], extra: Mapping[str, Any], path: str) -> Found | None:
    """Understand a file; None if it is of neither program.

    Raises:
        CheckpointError: If a key is not understood.
    """
    if any(key.endswith("/lora_down.weight") for key in state_dict):
        return _read_loraw(state_dict, path)
    if any(PARAMETRISED in key and key.rpartition(".")[2] in SA3_NAMES for key in state_dict):
        config = json.loads(metadata["lora_config"]) if "lora_config" in metadata else extra.get("lora_config") or {}
        return _read_sa3(state_dict, config, path)
    return None


def _read_loraw(state_dict: Mapping[str, Tensor], path: str) -> Found:
    tensors: dict[str, dict[str, Tensor]] = {}
    for key, tensor in state_dict.items():
        layer, _, name = key.rpartition("/")
        if name not in LORAW_NAMES:
            raise CheckpointError(f"{path}: {key}: LoRAW has no such tensor; known: {', '.join(LORAW_NAMES)}")
        if LORAW_NAMES[name] is not None:
            tensors.setdefault(layer.replace("/", "."), {})[LORAW_NAMES[name]] = tensor
    rank = int(next(iter(tensors.values()))["down"].shape[0])
    logger.info("%s: a file of LoRAW, which does not say its alpha: taken to be the rank, %d", path, rank)
    if any("rows" in named for named in tensors.values()):
        return Found(LORAW_DORA, {"rank": rank, "alpha": rank}, tensors, "LoRAW")
    converted = {layer: _as_lora(named["down"], named["up"]) for layer, named in tensors.items()}
    return Found("lora", {"rank": rank, "alpha": rank}, converted, "LoRAW")


def _read_sa3(state_dict: Mapping[str, Tensor], config: Mapping[str, Any], path: str) -> Found:
    tensors: dict[str, dict[str, Tensor]] = {}
    for key, tensor in state_dict.items():
        layer, _, end = key.partition(PARAMETRISED)
        name = end.rpartition(".")[2]
        if name not in SA3_NAMES:
            raise CheckpointError(f"{path}: {key}: Stable Audio 3 has no such tensor in adapters; known: {', '.join(SA3_NAMES)}")
        root = "conditioner" if layer.startswith("conditioners.") else "model"
        tensors.setdefault(f"{root}.{layer}", {})[name] = tensor.float()
    first = next(iter(tensors.values()))
    kind = _sa3_kind(str(config.get("adapter_type", "lora")), first, path)
    rank = int(config.get("rank") or first.get("lora_A", first.get("M_xs", torch.empty(8))).shape[0])
    options = {"rank": rank, "alpha": config.get("alpha") or rank}
    if kind == "lora":
        return Found("lora", options, {layer: _as_lora(named["lora_A"], named["lora_B"]) for layer, named in tensors.items()}, SA3)
    return Found(kind, options, tensors, SA3)


def _sa3_kind(kind: str, tensors: Mapping[str, Tensor], path: str) -> str:
    if kind == "dora":  # as older files call it; the magnitude tells of what
        magnitude = tensors.get("magnitude")
        is_columns = magnitude is not None and magnitude.dim() == 2 and magnitude.shape[0] == 1 and magnitude.shape[1] != 1
        return "dora-cols" if is_columns else "dora-rows"
    if kind not in SA3_KINDS:
        raise CheckpointError(f"{path}: adapter_type is {kind!r}; known: {', '.join(SA3_KINDS)}")
    return kind


def _as_lora(down: Tensor, up: Tensor) -> dict[str, Tensor]:
    """Tensors by peft's names. Convolutions are told by what they are applied to: see `fit_lora`."""
    return {"lora_A.weight": down.float(), "lora_B.weight": up.float()}


def fit_lora(tensors: Mapping[str, Tensor], weight: Tensor) -> dict[str, Tensor]:
    """Give matrices the shapes that peft's adapters of a convolution have: (r, in k) -> (r, in, k), (out, r) -> (out, r, 1)."""
    down, up = tensors["lora_A.weight"], tensors["lora_B.weight"]
    if weight.dim() == 2:
        return {"lora_A.weight": down, "lora_B.weight": up}
    if down[0].numel() != weight[0].numel():
        raise CheckpointError(f"lora_A.weight has shape {tuple(down.shape)}, and the layer's weight {tuple(weight.shape)}")
    return {"lora_A.weight": down.reshape(-1, *weight.shape[1:]), "lora_B.weight": up.reshape(*up.shape[:2], *[1] * (weight.dim() - 2))}


def change(kind: str, config: Mapping[str, Any], weight: Tensor, tensors: Mapping[str, Tensor]) -> Change:
    """What an adapter of a kind that only other programs write does to a layer with such a weight.

    Raises:
        CheckpointError: If its tensors do not fit the weight.
    """
    scale = config["alpha"] / config["rank"]
    if kind == LORAW_DORA:
        _require(tensors, ("down", "up"))
        _check(tensors["down"], tensors["up"], weight)
        return LowRankChange(tensors["down"], tensors["up"], scale, rows=tensors.get("rows"), is_bias_scaled=True)
    if kind.endswith("-xs"):
        _require(tensors, ("M_xs",))
        left, right = singular_vectors(weight, tensors["M_xs"].shape[0])
        down, up = right.T, left @ tensors["M_xs"]
    else:
        _require(tensors, ("lora_A", "lora_B"))
        down, up = tensors["lora_A"], tensors["lora_B"]
    _check(down, up, weight)
    plain = kind.removesuffix("-xs")
    rows = tensors.get("magnitude") if plain == "dora-rows" else tensors.get("magnitude_r")
    columns = tensors.get("magnitude") if plain == "dora-cols" else tensors.get("magnitude_c")
    return LowRankChange(down, up, scale, rows=rows, columns=columns)


def singular_vectors(weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The first singular vectors of a weight, (out, r) and (in, r), signed so that the largest entry of each left one is positive.

    Files of the ``-xs`` kinds leave them out: they are computed again from the layer's own weight, on the CPU in float32, and are only the
    same for the same weight.
    """
    left, _, right = torch.linalg.svd(weight.detach().float().cpu().flatten(1), full_matrices=False)
    left, right = left[:, :rank], right[:rank].T
    signs = left.gather(0, left.abs().argmax(dim=0, keepdim=True)).sign()  # (1, r)
    return left * signs, right * signs


def _require(tensors: Mapping[str, Tensor], names: tuple[str, ...]) -> None:
    missing = [name for name in names if name not in tensors]
    if missing:
        raise CheckpointError(f"lacks {', '.join(missing)}; it has {', '.join(tensors)}")


def _check(down: Tensor, up: Tensor, weight: Tensor) -> None:
    if down[0].numel() != weight[0].numel() or up.shape[0] != weight.shape[0] or up.shape[1] != down.shape[0]:
        shapes = f"{tuple(down.shape)} and {tuple(up.shape)}"
        raise CheckpointError(f"matrices of shapes {shapes} do not fit the layer's weight {tuple(weight.shape)}")
