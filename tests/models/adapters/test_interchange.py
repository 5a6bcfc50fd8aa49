"""Adapters in the formats that programs exchange do here what they did there."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from stable_audio_tools.errors import CheckpointError
from stable_audio_tools.models.adapters import read_adapter, stack_of
from stable_audio_tools.models.factory import create_model_from_config

QKV, CONV = "transformer.layers.0.self_attn.to_qkv", "preprocess_conv"
OUT = "transformer.layers.1.ff.ff.2"


@pytest.fixture
def model(dit_config: Callable[..., Any], randomise: Callable[..., nn.Module]) -> nn.Module:
    return randomise(create_model_from_config(dit_config())).eval()


@pytest.fixture
def again(dit_config: Callable[..., Any], model: nn.Module) -> nn.Module:
    """Another model with the same weights."""
    other = create_model_from_config(dit_config())
    other.load_state_dict(model.state_dict())
    return other.eval()


def weights(model: Any) -> dict[str, Tensor]:
    return {name: model.get_submodule(f"model.model.{name}").weight.detach().clone() for name in (QKV, CONV, OUT)}


CONFIGS: dict[str, Any] = {
    "lora": lambda: peft.LoraConfig(r=3, lora_alpha=6, target_modules=[QKV, CONV, OUT]),
    "lora, ranks by layer": lambda: peft.LoraConfig(
        r=3, lora_alpha=6, target_modules=[QKV, CONV, OUT], rank_pattern={"ff.2": 2}, alpha_pattern={CONV: 5}, use_rslora=True
    ),
    "dora": lambda: peft.LoraConfig(r=3, lora_alpha=6, target_modules=[QKV, OUT], use_dora=True),
    "loha": lambda: peft.LoHaConfig(r=2, alpha=5, target_modules=[QKV, CONV, OUT]),
    "lokr": lambda: peft.LoKrConfig(r=2, alpha=5, target_modules=[QKV, CONV, OUT], decompose_factor=4),
    "hira": lambda: peft.HiraConfig(r=2, target_modules=[QKV, OUT]),
    "oft": lambda: peft.OFTConfig(r=0, oft_block_size=4, target_modules=[QKV, OUT]),
    "boft": lambda: peft.BOFTConfig(boft_block_size=4, target_modules=[QKV, OUT]),
    "hra": lambda: peft.HRAConfig(r=2, target_modules=[QKV, OUT]),
}


@pytest.mark.parametrize(("name", "root"), [*((name, "model.model") for name in CONFIGS), ("lora", "model"), ("lora", ""), ("oft", "")])
def test_a_folder_of_peft(model: nn.Module, again: nn.Module, tmp_path: Path, name: str, root: str) -> None:
    """Trained around any part of the model."""
    config = CONFIGS[name]()
    config.target_modules = rf".*({'|'.join(sorted(config.target_modules))})"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = peft.get_peft_model(model.get_submodule(root) if root else model, config)  # type: ignore[arg-type]
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for key, parameter in adapted.named_parameters():
                if parameter.requires_grad:
                    drawn = torch.randn(parameter.shape, generator=generator)
                    parameter.add_(0.1 * drawn) if "magnitude" not in key else parameter.mul_(1 + 0.1 * drawn.abs())
        adapted.save_pretrained(tmp_path / "pads")
        before = weights(again)
        adapted.merge_and_unload()
    stack = stack_of(again)
    assert stack.load(tmp_path / "pads") == "pads"
    after = weights(again)
    for layer, expected in weights(model).items():
        torch.testing.assert_close(after[layer], expected, atol=2e-5, rtol=1e-4)
        assert (layer == CONV and name in ("dora", "hira", "oft", "boft", "hra")) or not torch.equal(after[layer], before[layer])
    stack.unload()
    assert all(torch.equal(weights(again)[layer], before[layer]) for layer in before)


def test_the_file_in_it_will_do(model: nn.Module, again: nn.Module, tmp_path: Path) -> None:
    adapted: Any = peft.get_peft_model(model, CONFIGS["lora"]())  # type: ignore[arg-type]
    nn.init.ones_(adapted.base_model.model.get_submodule(f"model.model.{QKV}").lora_B.default.weight)
    adapted.save_pretrained(tmp_path)
    adapter = read_adapter(tmp_path / "adapter_model.safetensors")
    assert (adapter.kind, adapter.config, adapter.header) == ("lora", {"rank": 3, "alpha": 3.0}, {"origin": "PEFT"})
    assert set(adapter.named_for(again).tensors) == {f"model.model.{name}" for name in (QKV, CONV, OUT)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fan_in_fan_out": True}, r"says fan_in_fan_out True, which cannot be used here"),
        ({"bias": "all"}, r"says bias 'all', which cannot be used here"),
        ({"peft_type": "VERA"}, r"peft_type is 'VERA'; those that can be used: LORA, "),
        ({"modules_to_save": ["x"], "lora_bias": True}, r"says (modules_to_save|lora_bias).*, (modules_to_save|lora_bias)"),
        (None, r"keeps its options beside it, in adapter_config\.json; there is none"),
        ("not json", r"adapter_config\.json: is no JSON file"),
    ],
)
def test_what_would_be_another_change_is_refused(model: nn.Module, tmp_path: Path, changes: Any, message: str) -> None:
    peft.get_peft_model(model, CONFIGS["lora"]()).save_pretrained(tmp_path)  # type: ignore[arg-type]
    file = tmp_path / "adapter_config.json"
    if changes is None:
        file.unlink()
    else:
        file.write_text(changes if isinstance(changes, str) else json.dumps({**json.loads(file.read_text()), **changes}))
    with pytest.raises(CheckpointError, match=message):
        read_adapter(tmp_path)


def matrices(layer: str, weight: Tensor, rank: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed + len(layer))
    down = 0.2 * torch.randn(rank, *weight.shape[1:], generator=generator)
    return down, 0.2 * torch.randn(weight.shape[0], rank, *[1] * (weight.dim() - 2), generator=generator)


@pytest.mark.parametrize("style", ["kohya", "ComfyUI", "lora_A"])
def test_matrices_by_layer(model: nn.Module, tmp_path: Path, style: str) -> None:
    expected: dict[str, Tensor] = {}
    file: dict[str, Tensor] = {}
    for rank, (layer, weight) in enumerate(weights(model).items(), start=2):
        down, up = matrices(layer, weight, rank)
        alpha = 1.5 if style != "lora_A" else rank
        expected[layer] = weight + (alpha / rank) * (up.flatten(1) @ down.flatten(1)).view_as(weight)
        key = f"lora_unet_{layer.replace('.', '_')}" if style == "kohya" else f"diffusion_model.{layer}"
        names = ("lora_A", "lora_B") if style == "lora_A" else ("lora_down", "lora_up")
        file |= {f"{key}.{names[0]}.weight": down.half(), f"{key}.{names[1]}.weight": up.half()}
        if style != "lora_A":
            file[f"{key}.alpha"] = torch.tensor(alpha)
    save_file({key: tensor.contiguous() for key, tensor in file.items()}, tmp_path / "a.safetensors")
    stack_of(model).load(tmp_path / "a.safetensors")
    for layer, weight in weights(model).items():
        torch.testing.assert_close(weight, expected[layer], atol=2e-3, rtol=1e-3)


def test_what_is_not_understood_is_refused(model: nn.Module, tmp_path: Path) -> None:
    def refused(file: dict[str, Tensor], message: str) -> None:
        save_file(file, tmp_path / "a.safetensors")
        with pytest.raises(CheckpointError, match=message):
            stack_of(model).load(tmp_path / "a.safetensors")

    down, up = matrices(QKV, weights(model)[QKV], 2)
    good = {f"diffusion_model.{QKV}.lora_down.weight": down, f"diffusion_model.{QKV}.lora_up.weight": up}
    refused({**good, f"diffusion_model.{QKV}.dora_scale": torch.ones(2)}, "dora_scale: is not understood; .*plain LoRA can be used")
    refused({key.replace("layers.0", "layers.7"): tensor for key, tensor in good.items()}, "layers that the model does not have, at least")
    refused(dict([*good.items()][:1]), r"lacks lora_B\.weight; it has lora_A\.weight")
    refused({key.replace(QKV, "to_qkv"): tensor for key, tensor in good.items()}, "the model has these layers in several places, below ")
