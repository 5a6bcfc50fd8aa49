"""The import path of version 0.0.20."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.models.adapters import choose_layers, save_adapter
from stable_audio_tools.models.factory import create_model_from_config
from stable_audio_tools.models.lora import load_and_apply_loras, merge_lora, remove_lora, remove_lora_by_index, set_lora_strength


def test_calls_of_scripts(dit_config: Callable[..., Any], tmp_path: Path) -> None:
    model = create_model_from_config(dit_config())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    paths = []
    for index, pattern in enumerate(("self_attn.to_qkv", "ff.0.proj")):
        tensors = {
            name: {"lora_A.weight": torch.ones(1, layer.weight.shape[1]), "lora_B.weight": torch.ones(layer.weight.shape[0], 1)}
            for name, layer in choose_layers(model, "lora", [pattern]).items()
        }
        paths.append(save_adapter(tmp_path / f"{index}.safetensors", tensors, kind="lora", config={"rank": 1}, base_hash=None))
    assert load_and_apply_loras(model, paths, "diffusion_cond", svd_bases_path=None) is model
    assert model.use_lora and model.lora_names == ["0", "1"]

    def changes() -> dict[str, float]:
        found = {name: float((tensor - before[name]).abs().max()) for name, tensor in model.state_dict().items()}
        return {name.rsplit(".", 2)[-2]: change for name, change in found.items() if change}

    assert changes() == pytest.approx({"to_qkv": 1, "proj": 1})
    set_lora_strength(model, 0.5, lora_index=1)
    assert changes() == pytest.approx({"to_qkv": 1, "proj": 0.5})
    set_lora_strength(model, 0)
    assert changes() == {}
    set_lora_strength(model, 1)
    remove_lora_by_index(model, 0)
    assert changes() == pytest.approx({"proj": 1})
    with pytest.raises(ConfigError, match="lora_index 1: the model has 1 adapters"):
        set_lora_strength(model, 1, lora_index=1)
    remove_lora(model)
    assert changes() == {}
    load_and_apply_loras(model, str(paths[0]))
    merge_lora(model)
    assert changes() == pytest.approx({"to_qkv": 1})
