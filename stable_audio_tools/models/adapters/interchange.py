"""Adapter files in the two formats that programs exchange: ``peft``'s folders, and files of matrices by layer (kohya, ComfyUI).

Both name layers from wherever their program put the adapter, so names are only understood once there is a model: see `names_in`.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stable_audio_tools.checkpoint.kinds import some
from stable_audio_tools.errors import CheckpointError
from stable_audio_tools.families import ADAPTERS
from stable_audio_tools.models.adapters.foreign import Found
from stable_audio_tools.models.adapters.targets import LAYERS

PEFT, MATRICES = "PEFT", "kohya or ComfyUI"
CONFIG, WEIGHTS = "adapter_config.json", ("adapter_model.safetensors", "adapter_model.bin")
PEFT_PREFIX = "base_model.model."
MATRIX = re.compile(r"(.+)\.(lora_down|lora_up|lora_A|lora_B)\.weight$")
MATRIX_PREFIX = re.compile(r"^(diffusion_model\.|lora_unet_|lora_transformer_|lycoris_)")
PEFT_KINDS: dict[str, tuple[str, dict[str, str]]] = {  # peft_type -> our kind, peft's name of an option -> ours
    "LORA": ("lora", {}),
    "LOHA": ("loha", {"r": "rank", "alpha": "alpha"}),
    "LOKR": ("lokr", {"r": "rank", "alpha": "alpha", "decompose_factor": "factor"}),
    "HIRA": ("hira", {"r": "rank"}),
    "OFT": ("oft", {"oft_block_size": "block_size"}),
    "BOFT": ("boft", {"boft_block_size": "block_size", "boft_n_butterfly_factor": "factors"}),
    "HRA": ("hra", {"r": "rank"}),
}
TOLD = re.compile(  # keys that do not say what the tensors mean, or that are looked at otherwise
    r"target_|exclude_|layers_|inference_mode|task_type|revision|auto_mapping|base_model_name|peft_|runtime_|init_|.*dropout|megatron_|"
    r"r$|(lora_)?alpha$|rank_pattern$|alpha_pattern$|use_rslora$|use_dora$|ensure_weight_tying|loftq_|eva_|corda_|arrow_"
)


def file_of(path: Path) -> Path:
    """The file of weights in a folder that ``peft`` wrote; a file is itself."""
    return next((path / name for name in WEIGHTS if (path / name).is_file()), path) if path.is_dir() else path


def read(state_dict: Mapping[str, Tensor], path: Path) -> Found | None:
    """Understand a file; None if it is of neither format. Names of layers are as in the file: see `names_in`.

    Raises:
        CheckpointError: If something in it is not understood.
    """
    config = path.with_name(CONFIG)
    if config.is_file() and path.name in WEIGHTS:
        return _read_peft(state_dict, config, path)
    if any(key.startswith(PEFT_PREFIX) for key in state_dict):
        raise CheckpointError(f"{path}: is an adapter of peft, which keeps its options beside it, in {CONFIG}; there is none")
    if any(MATRIX.match(key) and (MATRIX_PREFIX.match(key) or ".lora_down." in key) for key in state_dict):
        return _read_matrices(state_dict, path)
    return None


def _read_peft(state_dict: Mapping[str, Tensor], path_of_config: Path, path: Path) -> Found:
    try:
        config: dict[str, Any] = json.loads(path_of_config.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path_of_config}: is no JSON file: {error}") from error
    found = PEFT_KINDS.get(str(config.get("peft_type")))
    if found is None:
        raise CheckpointError(
            f"{path_of_config}: peft_type is {config.get('peft_type')!r}; those that can be used: {', '.join(PEFT_KINDS)}"
        )
    kind, options = found
    kind = "dora" if kind == "lora" and config.get("use_dora") else kind
    known = {ours: config[theirs] for theirs, ours in options.items() if config.get(theirs) not in (None, -1)}
    tensors = _by_layer(state_dict, kind, path)
    if kind in ("lora", "dora"):
        tensors, known = _scaled(tensors, lambda layer: _scale_of(config, layer), path)
    _refuse_unknown(ADAPTERS.build(kind, known).to_dict(), config, options, path_of_config)
    return Found(kind, known, tensors, PEFT)


def _by_layer(state_dict: Mapping[str, Tensor], kind: str, path: Path) -> dict[str, dict[str, Tensor]]:
    """Tensors by layer and by peft's names."""
    tensors: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for key, tensor in state_dict.items():
        match = re.match(r"(.+?)\.((lora|hada|lokr|hira|oft|boft|hra)_.+)$", key.removeprefix(PEFT_PREFIX))
        if match is None:
            raise CheckpointError(f"{path}: {key}: is no weight of an adapter; only adapters that leave the rest as it is can be used")
        name = match[2] + (".weight" if match[2] == "lora_magnitude_vector" else "")
        tensors[match[1]][name] = tensor.float()
    return dict(tensors)


def _scale_of(config: Mapping[str, Any], layer: str) -> Callable[[int], float]:
    """From the rank of a layer's matrices to the factor of their product, as peft computes it."""
    from peft.utils.other import get_pattern_key

    patterns: dict[str, Any] = config.get("alpha_pattern") or {}
    alpha = float(patterns.get(get_pattern_key([*patterns], layer), config.get("lora_alpha", 8)))
    return lambda rank: alpha / (rank**0.5 if config.get("use_rslora") else rank)


def _scaled(
    tensors: Mapping[str, Mapping[str, Tensor]], scale_of: Callable[[str], Callable[[int], float]], path: Path
) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """The same change with one rank for all layers and a factor of 1, and the options that say so."""
    for layer, named in tensors.items():
        if missing := [name for name in ("lora_A.weight", "lora_B.weight") if name not in named]:
            raise CheckpointError(f"{path}: {layer}: lacks {', '.join(missing)}; it has {', '.join(named)}")
    rank = max(named["lora_A.weight"].shape[0] for named in tensors.values())
    made: dict[str, dict[str, Tensor]] = {}
    for layer, named in tensors.items():
        down, up = named["lora_A.weight"].float(), named["lora_B.weight"].float()
        own = down.shape[0]
        more = rank - own
        made[layer] = {
            **named,
            "lora_A.weight": torch.cat([down, down.new_zeros(more, *down.shape[1:])]),
            "lora_B.weight": torch.cat([up * scale_of(layer)(own), up.new_zeros(up.shape[0], more, *up.shape[2:])], dim=1),
        }
    return made, {"rank": rank, "alpha": float(rank)}


def _refuse_unknown(ours: Mapping[str, Any], theirs: Mapping[str, Any], options: Mapping[str, str], path: Path) -> None:
    """Refuse options that would make another change of the same tensors."""
    absent = (None, False, "none", [], {})
    other = [
        f"{key} {value!r}"
        for key, value in theirs.items()
        if not TOLD.match(key) and key not in options and value != ours.get(key) and not (value in absent and ours.get(key) in absent)
    ]
    if theirs.get("peft_type") != "LORA":
        other += [f"{key} {theirs[key]!r}" for key in ("rank_pattern", "alpha_pattern", "use_rslora") if theirs.get(key)]
    if other:
        raise CheckpointError(f"{path}: says {', '.join(other)}, which cannot be used here")


def _read_matrices(state_dict: Mapping[str, Tensor], path: Path) -> Found:
    tensors: dict[str, dict[str, Tensor]] = defaultdict(dict)
    alphas: dict[str, float] = {}
    for key, tensor in state_dict.items():
        name = MATRIX_PREFIX.sub("", key)
        match = MATRIX.match(name)
        if match is not None:
            tensors[match[1]]["lora_A.weight" if match[2] in ("lora_down", "lora_A") else "lora_B.weight"] = tensor.float()
        elif name.endswith(".alpha"):
            alphas[name.removesuffix(".alpha")] = float(tensor)
        else:
            raise CheckpointError(
                f"{path}: {key}: is not understood; of files by {MATRICES}, plain LoRA can be used: lora_down, lora_up, alpha"
            )
    made, config = _scaled(tensors, lambda layer: lambda rank: alphas.get(layer, rank) / rank, path)
    return Found("lora", config, made, MATRICES)


# ---- names -----------------------------------------------------------------------------------------------------------------------------


def names_in(model: nn.Module, layers: Sequence[str], path: str) -> dict[str, str]:
    """The model's names of layers that a file names from somewhere inside the model, and possibly with ``_`` for ``.``.

    Raises:
        CheckpointError: If no place in the model has them all, or several do.
    """
    own = {name: name for name, module in model.named_modules() if isinstance(module, tuple(LAYERS.values()))}
    for table in (own, {name.replace(".", "_"): name for name in own}):
        first = layers[0]
        places = [name.removesuffix(first) for name in table if name == first or name.endswith((f".{first}", f"_{first}"))]
        whole = [place for place in places if all(place + layer in table for layer in layers)]
        if len(whole) > 1:
            raise CheckpointError(f"{path}: the model has these layers in several places, below {' and '.join(map(repr, whole))}")
        if whole:
            return {layer: table[whole[0] + layer] for layer in layers}
    raise CheckpointError(
        f"{path}: does not fit the model: it changes layers that the model does not have, at least not together: {some(list(layers))}"
    )
