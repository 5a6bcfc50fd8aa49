"""Adapters in use: strengths, stacking, merging, and what is refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from stable_audio_tools.errors import CheckpointError, ConfigError
from stable_audio_tools.families import ADAPTERS
from stable_audio_tools.models.adapters import AdapterFile, read_adapter, save_adapter, stack_of
from stable_audio_tools.models.adapters.attach import attach, tensors_of
from stable_audio_tools.models.factory import create_model_from_config

OPTIONS: dict[str, dict[str, Any]] = {"oft": {"block_size": 4}, "boft": {"block_size": 2}, "hra": {"rank": 2}, "lokr": {"rank": 2}}
KINDS = sorted(part.name for part in ADAPTERS)
LINEARS = ["to_qkv", "to_out", ".ff."]


class Net(nn.Module):
    """A linear layer and a convolution."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = nn.ModuleDict({"first": nn.Linear(8, 16), "second": nn.Conv1d(16, 8, 3, padding=1), "third": nn.Linear(8, 4)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (B, L, 8) -> (B, L, 4)
        hidden = self.model["first"](x).transpose(1, 2)  # (B, 16, L)
        return self.model["third"](self.model["second"](hidden).transpose(1, 2))  # (B, L, 4)


X = torch.randn(2, 10, 8, generator=torch.Generator().manual_seed(1))


def trained(net: nn.Module, kind: str, targets: list[str] | None = None, seed: int = 1, size: float = 0.1) -> tuple[AdapterFile, nn.Module]:
    """An adapter with some weights, and the model that has it the way training does."""
    inside = copy.deepcopy(net)
    options = OPTIONS.get(kind, {"rank": 4})
    layers = attach(inside, kind, options, targets)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for named in layers.values():
            for tensor in named.values():
                tensor += size * torch.randn(tensor.shape, generator=generator)
    return AdapterFile(f"{kind}{seed}.safetensors", kind, options, tensors_of(layers), {}), inside.eval()


def weights(net: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.parametrize("kind", KINDS)
def test_in_use_is_as_it_was_trained(kind: str) -> None:
    net = Net()
    adapter, inside = trained(net, kind)
    before, state = net(X), weights(net)
    stack = stack_of(net)
    name = stack.load(adapter)
    torch.testing.assert_close(net(X), inside(X), atol=2e-6, rtol=1e-5)
    assert (net(X) - before).abs().max() > 1e-3
    stack.set_strength(0, name)
    assert same(weights(net), state)
    stack.set_strength(0.7)
    stack.unload()
    assert same(weights(net), state) and stack.strengths == {}


@pytest.mark.parametrize("kind", KINDS)
def test_saved_is_as_it_was(kind: str, tmp_path: Path) -> None:
    net = Net()
    adapter, inside = trained(net, kind)
    path = save_adapter(
        tmp_path / "a.safetensors", adapter.tensors, kind=kind, config=adapter.config, base_hash="0", step=7, model_type="lm"
    )
    back = read_adapter(path)
    assert back.kind == kind and back.header == {"step": 7, "base_hash": "0", "model_type": "lm"}
    assert {name: set(named) for name, named in back.tensors.items()} == {name: set(named) for name, named in adapter.tensors.items()}
    assert all(torch.equal(tensor, adapter.tensors[name][part]) for name, named in back.tensors.items() for part, tensor in named.items())
    stack_of(net).load(back)
    torch.testing.assert_close(net(X), inside(X), atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_strength_is_continuous(kind: str) -> None:
    net = Net()
    base = weights(net)
    stack = stack_of(net)
    stack.load(trained(net, kind)[0])
    full = weights(net)
    for strength in (1e-4, 0.5, -1.0, 2.0):
        stack.set_strength(strength)
        for name, tensor in net.state_dict().items():
            torch.testing.assert_close(tensor, base[name] + strength * (full[name] - base[name]), atol=2e-6, rtol=1e-5)


def test_adapters_of_different_layers_and_kinds_add_up() -> None:
    net = Net()
    base = weights(net)
    parts = [trained(net, "lora", ["first"], 1)[0], trained(net, "dora", ["first", "second"], 2)[0], trained(net, "oft", ["third"], 3)[0]]
    alone = []
    for part in parts:
        with_one = Net()
        stack_of(with_one).load(part)
        alone.append(weights(with_one))
    strengths = (1.0, 0.5, -0.25)
    results = []
    for order in ((0, 1, 2), (2, 0, 1)):
        stacked = Net()
        for index in order:
            stack_of(stacked).load(parts[index], strengths[index])
        results.append(weights(stacked))
    for name, tensor in base.items():
        total = sum((s * (one[name] - tensor) for s, one in zip(strengths, alone, strict=True)), start=tensor)
        for result in results:
            torch.testing.assert_close(result[name], total, atol=2e-6, rtol=1e-5)
    stack = stack_of(stacked)
    stack.unload("dora2")
    torch.testing.assert_close(stacked.model["second"].weight, base["model.second.weight"], atol=0, rtol=0)
    assert not torch.equal(stacked.model["first"].weight, base["model.first.weight"])
    stack.set_strength(0)
    assert same(weights(stacked), base)


@pytest.mark.parametrize("kind", ["lora", "dora", "lokr", "oft"])
def test_merge_and_unmerge(kind: str) -> None:
    net = Net()
    adapter, inside = trained(net, kind)
    base, stack = weights(net), stack_of(net)
    stack.load(adapter)
    stack.merge(keep_base=True)
    torch.testing.assert_close(net(X), inside(X), atol=2e-6, rtol=1e-5)
    with pytest.raises(ConfigError, match="no adapter named 'x' is in use; in use: none"):
        stack.set_strength(0, "x")
    stack.unmerge()
    assert same(weights(net), base)
    with pytest.raises(ConfigError, match="nothing is merged"):
        stack.unmerge()
    stack.load(adapter, 0.5)
    stack.merge()
    if ADAPTERS.part(kind).facts["additive"]:
        stack.unmerge()
        for name, tensor in net.state_dict().items():
            torch.testing.assert_close(tensor, base[name], atol=1e-6, rtol=1e-5)
    else:
        with pytest.raises(ConfigError, match=f"kind {kind} has added depends on the weights from before, which were not kept"):
            stack.unmerge()
    with pytest.raises(ConfigError, match="no adapter to merge"):
        stack.merge()


def test_what_does_not_fit_is_refused_by_name() -> None:
    net = Net()
    state = weights(net)
    adapter, _ = trained(net, "lora")
    stack = stack_of(net)
    other = adapter._replace(tensors={"model.fourth": adapter.tensors["model.first"], **adapter.tensors})
    with pytest.raises(CheckpointError, match=r"does not fit the model: .* does not have: model\.fourth \(4 in the file\)"):
        stack.load(other)
    wide = adapter._replace(tensors={"model.third": adapter.tensors["model.first"]})
    with pytest.raises(CheckpointError, match=r"model\.third: lora_B\.weight has shape \(16, 4\) instead of \(4, 4\)"):
        stack.load(wide)
    half = adapter._replace(tensors={"model.third": {"lora_A.weight": adapter.tensors["model.third"]["lora_A.weight"]}})
    with pytest.raises(CheckpointError, match=r"model\.third: has lora_A\.weight instead of lora_A\.weight, lora_B\.weight"):
        stack.load(half)
    stack.load(adapter)
    with pytest.raises(ConfigError, match="an adapter named 'lora1' is in use already"):
        stack.load(adapter)
    stack.unload()
    assert same(weights(net), state)


@pytest.mark.parametrize("kind", KINDS)
def test_what_changes_nothing_is_refused(kind: str) -> None:
    net = Net()
    adapter, _ = trained(net, kind, size=0.0)
    with pytest.raises(CheckpointError, match=rf"{kind}1\.safetensors: changes nothing: .* Its keys: model\.first\.\w+"):
        stack_of(net).load(adapter)


def test_weight_norm_of_torch_is_refused() -> None:
    net, normalised = Net(), Net()
    nn.utils.parametrizations.weight_norm(normalised.model["second"])
    with pytest.raises(CheckpointError, match=r"model\.second: the weight of such a layer is computed by weight normalisation"):
        stack_of(normalised).load(trained(net, "lora")[0])
    with pytest.raises(ConfigError, match=r"adapter targets: model\.second: .* collapse it first with remove_weight_norm_from_model"):
        attach(normalised, "lora", {}, ["second"])
    assert list(attach(normalised, "lora", {})) == ["model.first", "model.third"]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "Conv1d" in ADAPTERS.part(kind).facts["layers"]])
def test_weight_norm_of_ours_is_kept(kind: str) -> None:
    from stable_audio_tools.models.layers.conv import WNConv1d

    net = Net()
    net.model["second"] = WNConv1d(16, 8, 3, padding=3, dilation=3)
    with torch.no_grad():
        net.model["second"].weight_g *= 1.7
    adapter, inside = trained(net, kind)
    assert "model.second" in adapter.tensors
    state, before = weights(net), net(X)
    stack = stack_of(net)
    stack.load(adapter, 0.0)
    assert torch.equal(net(X), before) and same(weights(net), state)
    stack.set_strength(1.0)
    torch.testing.assert_close(net(X), inside(X), atol=1e-5, rtol=1e-4)
    assert weights(net).keys() == state.keys(), "a merged model has the keys of the model"
    stack.unload()
    assert torch.equal(net(X), before) and same(weights(net), state)


def test_padding_of_their_own_keeps_convolutions_out() -> None:
    from stable_audio_tools.models.layers.conv import WNConv1dSame

    for layer in (WNConv1dSame(16, 8, 4), nn.Conv1d(16, 8, 3, padding=1, padding_mode="reflect"), nn.Conv1d(16, 8, 1, groups=2)):
        net = Net()
        net.model["second"] = layer
        assert list(attach(net, "lora", {})) == ["model.first", "model.third"]


def test_other_weights_are_told(caplog: pytest.LogCaptureFixture) -> None:
    from stable_audio_tools.models.adapters.files import base_hash

    net = Net()
    adapter, _ = trained(net, "lora")
    known = base_hash({name: net.get_submodule(name).weight for name in adapter.tensors})  # pyright: ignore[reportArgumentType]
    adapter = adapter._replace(header={"base_hash": known})
    stack_of(copy.deepcopy(net).half()).load(adapter)
    stack_of(copy.deepcopy(net).bfloat16()).load(adapter)
    assert "other weights" not in caplog.text
    with torch.no_grad():
        net.model["first"].weight += 1
    stack_of(net).load(adapter)
    assert "lora1.safetensors: was made for other weights" in caplog.text


def test_half_precision_and_copies() -> None:
    net = Net()
    base = copy.deepcopy(net).half().state_dict()
    stack_of(net).load(trained(net, "dora")[0], 0.5)
    net.half()
    stack_of(net).set_strength(0)
    assert same(weights(net), base)
    stack_of(net).set_strength(1)
    twin = copy.deepcopy(net)
    stack_of(twin).set_strength(0)
    assert same(weights(twin), base) and not same(weights(net), base)


def test_a_whole_model(dit_config: Callable[..., Any], randomise: Callable[..., nn.Module]) -> None:
    model = randomise(create_model_from_config(dit_config())).eval()
    state = weights(model)
    torch.manual_seed(0)
    adapter, inside = trained(model, "lora", [*LINEARS, "seconds_total"])
    assert any(name.startswith("conditioner.") for name in adapter.tensors)
    options = {"steps": 2, "seed": 1, "conditioning": {"prompt": "a", "seconds_total": 1}, "sample_size": 512, "disable_tqdm": True}
    before = model.generate(**options)
    stack_of(model).load(adapter)
    torch.testing.assert_close(model.generate(**options), inside.generate(**options), atol=1e-4, rtol=1e-3)
    assert (model.generate(**options) - before).abs().max() > 1e-3
    stack_of(model).set_strength(0)
    assert torch.equal(model.generate(**options), before) and same(weights(model), state)
