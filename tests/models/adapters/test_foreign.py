"""Files of LoRAW and of Stable Audio 3, computed as those programs compute."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from stable_audio_tools.errors import CheckpointError
from stable_audio_tools.models.adapters import read_adapter, stack_of
from stable_audio_tools.models.factory import create_model_from_config

LINEAR = "model.model.transformer.layers.0.self_attn.to_qkv"
BIASED = "model.model.transformer.layers.1.ff.ff.2"
CONV = "model.model.preprocess_conv"
NUMBER = "conditioner.conditioners.seconds_total.embedder.embedding.1"
LAYERS = (LINEAR, BIASED, CONV, NUMBER)
RANK = 3


@pytest.fixture
def model(dit_config: Callable[..., Any], randomise: Callable[..., nn.Module]) -> nn.Module:
    model = create_model_from_config(dit_config())
    with torch.no_grad():
        for parameter in randomise(model).parameters():
            if parameter.dim() == 1:
                parameter += 0.1
    return model.eval()


def of(model: nn.Module, layer: str) -> Any:
    return model.get_submodule(layer)


def random(*shape: int, seed: int = 0) -> Tensor:
    return 0.2 * torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


@pytest.mark.parametrize("is_dora", [False, True])
def test_loraw(model: nn.Module, tmp_path: Path, is_dora: bool) -> None:
    file: dict[str, Tensor] = {}
    expected: dict[str, tuple[Tensor, Tensor | None]] = {}
    for layer in LAYERS:
        weight, bias = of(model, layer).weight.detach().clone(), of(model, layer).bias
        kernel = weight.shape[2:]
        down, up = random(RANK, weight.shape[1], *kernel), random(weight.shape[0], RANK, *[1] * len(kernel))
        path = layer.replace(".", "/")
        file |= {f"{path}/lora_down.weight": down, f"{path}/lora_up.weight": up}
        changed = weight.flatten(1) + up.flatten(1) @ down.flatten(1)
        if is_dora:
            lengths = random(weight.shape[0], seed=5).abs() + 1
            file |= {f"{path}/dora_mag.weight": lengths, f"{path}/dora_mag.bias": torch.zeros(weight.shape[0])}
            stretch = lengths / changed.norm(dim=1)
            changed, bias = changed * stretch[:, None], None if bias is None else bias.detach() * stretch
        expected[layer] = changed.view_as(weight), None if bias is None else bias.detach().clone()
    torch.save(file, tmp_path / "old.ckpt")
    adapter = read_adapter(tmp_path / "old.ckpt")
    assert adapter.header == {"origin": "LoRAW"} and adapter.config == {"rank": RANK, "alpha": RANK}
    stack_of(model).load(adapter)
    for layer, (weight, bias) in expected.items():
        torch.testing.assert_close(of(model, layer).weight, weight, atol=1e-5, rtol=1e-5)
        if bias is not None:
            torch.testing.assert_close(of(model, layer).bias, bias, atol=1e-6, rtol=1e-5)


def published(kind: str, weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Tensors of an adapter, and the weight with it at alpha / rank = 2, as documented."""
    flat = weight.flatten(1)
    if kind.endswith("-xs"):
        left, _, right = torch.linalg.svd(flat, full_matrices=False)
        signs = torch.stack([column[column.abs().argmax()].sign() for column in left.T])
        left, right, middle = (left * signs)[:, :RANK], (right.T * signs)[:, :RANK], random(RANK, RANK)
        tensors, changed = {"M_xs": middle}, flat + 2 * left @ middle @ right.T
    else:
        tensors = {"lora_A": random(RANK, flat.shape[1]), "lora_B": random(flat.shape[0], RANK)}
        changed = flat + 2 * tensors["lora_B"] @ tensors["lora_A"]
    plain, rows, columns = kind.removesuffix("-xs"), random(flat.shape[0]).abs() + 1, random(flat.shape[1]).abs() + 1
    if plain in ("dora-rows", "bora"):
        tensors["magnitude" if plain == "dora-rows" else "magnitude_r"] = rows
        changed = changed / changed.norm(dim=1, keepdim=True) * rows[:, None]
    if plain in ("dora-cols", "bora"):
        tensors["magnitude" if plain == "dora-cols" else "magnitude_c"] = columns
        changed = changed / changed.norm(dim=0, keepdim=True) * columns
    return tensors, changed.view_as(weight)


def sa3_key(layer: str, name: str) -> str:
    return f"{layer.removeprefix('model.').removeprefix('conditioner.')}.parametrizations.weight.0.{name}"


@pytest.mark.parametrize("kind", ["lora", "dora-rows", "dora-cols", "bora", "lora-xs", "dora-rows-xs", "dora-cols-xs", "bora-xs"])
@pytest.mark.parametrize("suffix", ["safetensors", "ckpt"])
def test_stable_audio_3(model: nn.Module, tmp_path: Path, kind: str, suffix: str) -> None:
    made = {layer: published(kind, of(model, layer).weight.detach().clone()) for layer in LAYERS}
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    file = {sa3_key(layer, name): tensor for layer, (tensors, _) in made.items() for name, tensor in tensors.items()}
    config = {"rank": RANK, "alpha": 2 * RANK, "adapter_type": kind, "include": None}
    if suffix == "ckpt":
        torch.save({"state_dict": file, "lora_config": config}, tmp_path / "a.ckpt")
    else:
        save_file(file, tmp_path / "a.safetensors", {"lora_config": json.dumps(config)})
    stack = stack_of(model)
    stack.load(tmp_path / f"a.{suffix}")
    for layer, (_, weight) in made.items():
        torch.testing.assert_close(of(model, layer).weight.detach(), weight, atol=2e-4 if "xs" in kind else 1e-5, rtol=1e-4)
    stack.set_strength(0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(("shape", "kind"), [((1, -1), "dora-cols"), ((-1, 1), "dora-rows"), ((-1,), "dora-rows")])
def test_older_names(model: nn.Module, tmp_path: Path, shape: tuple[int, ...], kind: str) -> None:
    tensors, weight = published(kind, of(model, LINEAR).weight.detach().clone())
    tensors["magnitude"] = tensors["magnitude"].view(shape)
    config = json.dumps({"rank": RANK, "alpha": 2 * RANK, "adapter_type": "dora"})
    save_file({sa3_key(LINEAR, name): tensor for name, tensor in tensors.items()}, tmp_path / "a.safetensors", {"lora_config": config})
    stack_of(model).load(tmp_path / "a.safetensors")
    torch.testing.assert_close(of(model, LINEAR).weight.detach(), weight, atol=1e-5, rtol=1e-4)


def test_without_config(model: nn.Module, tmp_path: Path) -> None:
    tensors, _ = published("lora", of(model, LINEAR).weight.detach().clone())
    torch.save({sa3_key(LINEAR, name): tensor for name, tensor in tensors.items()}, tmp_path / "a.ckpt")
    adapter = read_adapter(tmp_path / "a.ckpt")
    assert (adapter.kind, adapter.config) == ("lora", {"rank": RANK, "alpha": RANK})


def test_what_is_not_understood_is_refused(model: nn.Module, tmp_path: Path) -> None:
    def refused(file: dict[str, Tensor], message: str, config: dict[str, Any] | None = None) -> None:
        save_file(file, tmp_path / "a.safetensors", {"lora_config": json.dumps(config)} if config else None)
        with pytest.raises(CheckpointError, match=message):
            stack_of(model).load(tmp_path / "a.safetensors")

    tensors, _ = published("lora", of(model, LINEAR).weight.detach().clone())
    good = {sa3_key(LINEAR, name): tensor for name, tensor in tensors.items()}
    refused({"a.weight": torch.ones(2)}, "no adapter file that is known here: its keys are like a.weight")
    refused({**good, "b.weight": torch.ones(2)}, r"b\.weight: Stable Audio 3 has no such tensor")
    refused(good, "adapter_type is 'nora'; known: lora, ", {"rank": 3, "adapter_type": "nora"})
    refused({sa3_key(BIASED, name): tensor for name, tensor in tensors.items()}, rf"{BIASED}: lora_A\.weight has shape")
    refused({sa3_key(LINEAR, "lora_A"): tensors["lora_A"]}, f"{LINEAR}: lacks lora_B; it has lora_A", {"adapter_type": "bora"})
    shifted = {key.replace("layers.0", "layers.7"): tensor for key, tensor in good.items()}
    refused(shifted, r"it changes layers that the model does not have: model\.model\.transformer\.layers\.7")
    refused({"a/lora_down.weight": torch.ones(2, 3), "a/alpha": torch.ones(1)}, "a/alpha: LoRAW has no such tensor")


def test_two_files_of_different_layers(model: nn.Module, tmp_path: Path) -> None:
    """The second one's numbering in its keys starts at 0, too."""
    made = {layer: published("lora", of(model, layer).weight.detach().clone()) for layer in (LINEAR, BIASED)}
    for layer, (tensors, _) in made.items():
        config = json.dumps({"rank": RANK, "alpha": 2 * RANK})
        path = tmp_path / f"{layer}.safetensors"
        save_file({sa3_key(layer, name): tensor for name, tensor in tensors.items()}, path, {"lora_config": config})
        stack_of(model).load(path)
    for layer, (_, weight) in made.items():
        torch.testing.assert_close(of(model, layer).weight.detach(), weight, atol=1e-5, rtol=1e-4)
