"""Adapter files: what they hold, and how other programs write theirs.

Ours are safetensors files. Keys are the dotted name of a layer and peft's name of a tensor, such as
``model.model.transformer.layers.0.ff.ff.2.lora_A.weight``. The header says everything else: ``format``, ``format_version``, ``kind``,
``config``, ``rank``, ``alpha``, ``targets`` (the layers, by name), ``base_hash``, ``step`` and ``model_type``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from stable_audio_tools.checkpoint import read_checkpoint, save_model_weights, weights_hash
from stable_audio_tools.errors import CheckpointError, ConfigError
from stable_audio_tools.families import ADAPTERS
from stable_audio_tools.models.adapters import foreign, interchange
from stable_audio_tools.models.adapters.changes import Change, PeftChange

FORMAT, VERSION = "stable-audio-tools adapter", "1"
Tensors = dict[str, dict[str, Tensor]]


class AdapterFile(NamedTuple):
    """An adapter, as a file holds it.

    Attributes:
        path: Where it was read from.
        kind: Its kind: one of ``sat list adapters``, or one that only other programs write.
        config: Options of the kind.
        tensors: Its weights: layer -> name -> tensor.
        header: What else is known of it: ``step``, ``base_hash``, ``model_type``, ``origin``.
    """

    path: str
    kind: str
    config: dict[str, Any]
    tensors: Tensors
    header: dict[str, Any]

    @property
    def num_parameters(self) -> int:
        """Numbers in it."""
        return sum(tensor.numel() for tensors in self.tensors.values() for tensor in tensors.values())

    def named_for(self, model: nn.Module) -> AdapterFile:
        """The same with the model's names of layers, if the file has names of its own.

        Raises:
            CheckpointError: If the model has no such layers.
        """
        if self.header.get("origin") not in (interchange.PEFT, interchange.MATRICES):
            return self
        names = interchange.names_in(model, list(self.tensors), self.path)
        return self._replace(tensors={names[layer]: named for layer, named in self.tensors.items()})

    def change(self, name: str, layer: nn.Module, weight: Tensor) -> Change:
        """What it does to one layer.

        Args:
            name: Of the layer.
            layer: The layer.
            weight: The layer's own weight, without any adapter.

        Raises:
            CheckpointError: If its tensors are not of the layer's sizes.
        """
        tensors = self.tensors[name]
        try:
            if self.kind == "lora" and self.header.get("origin"):
                tensors = foreign.fit_lora(tensors, weight)
            if self.kind in ADAPTERS:
                return PeftChange(self.kind, self.config, layer, tensors)
            return foreign.change(self.kind, self.config, weight, tensors)
        except (CheckpointError, ConfigError) as error:
            raise CheckpointError(f"{self.path}: {name}: {error}") from error


def save_adapter(
    path: str | Path,
    tensors: Mapping[str, Mapping[str, Tensor]],
    *,
    kind: str,
    config: Mapping[str, Any],
    base_hash: str | None,
    step: int | None = None,
    model_type: str | None = None,
) -> Path:
    """Write an adapter, atomically.

    Args:
        path: Where to; the suffix is ``.safetensors``.
        tensors: Its weights: layer -> name -> tensor.
        kind: Its kind.
        config: Options of the kind.
        base_hash: `base_hash` of the layers that it was made for.
        step: Optimizer steps that it was trained.
        model_type: Of the model that it was made for.
    """
    target = Path(path)
    if target.suffix != ".safetensors":
        raise ConfigError(f"{target}: an adapter is a .safetensors file; give it this suffix")
    known = {parameter.name: ADAPTERS.schema(kind).value(config, parameter.name) for parameter in ADAPTERS.schema(kind).parameters}
    rank, alpha = known.get("rank"), known.get("alpha")
    metadata = {
        "format": FORMAT, "format_version": VERSION, "kind": kind, "config": json.dumps(known), "rank": rank,
        "alpha": alpha if alpha is not None else rank, "targets": json.dumps(list(tensors)), "base_hash": base_hash, "step": step,
        "model_type": model_type,
    }  # fmt: skip
    flat = {f"{layer}.{name}": tensor for layer, named in tensors.items() for name, tensor in named.items()}
    return save_model_weights(flat, target, metadata={key: str(value) for key, value in metadata.items() if value is not None})


def read_adapter(path: str | Path) -> AdapterFile:
    """Read an adapter: our file, a training checkpoint of one, a file of LoRAW or of Stable Audio 3, or one in a format of `interchange`.

    Args:
        path: The file, or the folder that ``peft`` wrote.

    Raises:
        CheckpointError: If it is none of these.
    """
    path = interchange.file_of(Path(path))
    checkpoint = read_checkpoint(path)
    metadata = _metadata(path)
    if "adapter" in checkpoint.extra:
        return _of_training(str(path), checkpoint.state_dict, checkpoint.extra)
    if metadata.get("format") == FORMAT:
        return _ours(str(path), checkpoint.state_dict, metadata)
    found = foreign.read(checkpoint.state_dict, metadata, checkpoint.extra, str(path))
    found = found or interchange.read(checkpoint.state_dict, path)
    if found is None:
        what = checkpoint.description if checkpoint.kind != "unknown" else "no adapter file that is known here"
        known = "files that can be used are those of this library, LoRAW, Stable Audio 3 and peft, and plain LoRA of kohya and ComfyUI"
        raise CheckpointError(f"{path}: is {what}: its keys are like {', '.join(list(checkpoint.state_dict)[:3])}; {known}")
    return AdapterFile(str(path), found.kind, found.config, found.tensors, {"origin": found.origin})


def _metadata(path: Path) -> dict[str, str]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError):
        return {}


def _ours(path: str, state_dict: Mapping[str, Tensor], metadata: Mapping[str, str]) -> AdapterFile:
    if metadata.get("format_version") != VERSION:
        raise CheckpointError(f"{path}: is of format version {metadata.get('format_version')}; this version of the library reads {VERSION}")
    kind = metadata["kind"]
    if kind not in ADAPTERS:
        raise CheckpointError(f"{path}: holds an adapter of kind {kind!r}, which is not known here; known: {', '.join(ADAPTERS.names())}")
    header: dict[str, Any] = {key: metadata[key] for key in ("base_hash", "model_type") if key in metadata}
    if "step" in metadata:
        header["step"] = int(metadata["step"])
    tensors = grouped(state_dict, json.loads(metadata["targets"]), path)
    return AdapterFile(path, kind, json.loads(metadata["config"]), tensors, header)


def _of_training(path: str, state_dict: Mapping[str, Tensor], extra: Mapping[str, Any]) -> AdapterFile:
    """From a checkpoint that holds an adapter and what resumes its training. Averaged weights win, as everywhere."""
    block = extra["adapter"]
    tensors = {
        layer: {name: state_dict[keys[-1]] for name, keys in named.items()}
        for layer, named in block["keys"].items()
    }  # fmt: skip
    header = {"step": extra.get("global_step"), **{key: block[key] for key in ("base_hash", "model_type")}}
    return AdapterFile(path, block["type"], dict(block["config"]), tensors, header)


def grouped(state_dict: Mapping[str, Tensor], layers: Sequence[str], path: str) -> Tensors:
    """Tensors by the layer that they belong to."""
    by_length = sorted(layers, key=len, reverse=True)
    tensors: Tensors = {layer: {} for layer in layers}
    for key, tensor in state_dict.items():
        layer = next((name for name in by_length if key.startswith(f"{name}.")), None)
        if layer is None:
            raise CheckpointError(f"{path}: {key} belongs to none of the layers in the file's header")
        tensors[layer][key.removeprefix(f"{layer}.")] = tensor
    return tensors


def base_hash(weights: Mapping[str, Tensor]) -> str | None:
    """What identifies the weights that an adapter was made for: the same whether the model is in float32 or float16.

    None if it cannot be told: the weights are in another data type.
    """
    if any(weight.dtype not in (torch.float32, torch.float16) for weight in weights.values()):
        return None
    return weights_hash({name: weight.detach().half() for name, weight in weights.items()})
