"""Weight-normalised convolutions."""

import copy
import pickle
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from stable_audio_tools.models.layers.conv import WNConv1d, WNConv1dSame, WNConv2d, WNConvTranspose1d, remove_weight_norm_from_model

LAYERS = {
    "conv1d": (lambda: WNConv1d(3, 5, 4, stride=2, padding=1), (2, 3, 12)),
    "same": (lambda: WNConv1dSame(3, 5, 4), (2, 3, 12)),
    "transpose": (lambda: WNConvTranspose1d(3, 5, 4, stride=2, padding=1), (2, 3, 12)),
    "conv2d": (lambda: WNConv2d(3, 5, (3, 2)), (2, 3, 6, 6)),
    "no_bias": (lambda: WNConv1d(3, 5, 4, bias=False), (2, 3, 12)),
    "depthwise": (lambda: WNConv1d(4, 4, 3, groups=4), (2, 4, 12)),
}


@pytest.fixture(params=LAYERS)
def layer(request):
    torch.manual_seed(0)
    make, shape = LAYERS[request.param]
    module = make()
    with torch.no_grad():
        module.weight_g.mul_(torch.linspace(0.5, 2, module.weight_g.numel()).view_as(module.weight_g))
    return module, torch.randn(shape)


def test_weight_is_direction_times_gain(layer):
    module, _ = layer
    norm = module.weight_v.flatten(1).norm(dim=1)
    expected = module.weight_v * (module.weight_g.flatten() / norm).view_as(module.weight_g)
    torch.testing.assert_close(module.weight, expected)


def test_starts_with_the_weights_that_torch_would_give():
    torch.manual_seed(3)
    plain = nn.Conv1d(3, 5, 4)
    torch.manual_seed(3)
    normed = WNConv1d(3, 5, 4)
    torch.testing.assert_close(normed.weight, plain.weight)
    assert torch.equal(normed.bias, plain.bias)


@pytest.mark.parametrize(
    ("module", "shapes"),
    [
        (WNConv1d(3, 5, 4), {"weight_g": (5, 1, 1), "weight_v": (5, 3, 4), "bias": (5,)}),
        (WNConvTranspose1d(3, 5, 4), {"weight_g": (3, 1, 1), "weight_v": (3, 5, 4), "bias": (5,)}),
        (WNConv2d(3, 5, 2), {"weight_g": (5, 1, 1, 1), "weight_v": (5, 3, 2, 2), "bias": (5,)}),
        (WNConv1d(3, 5, 4, bias=False), {"weight_g": (5, 1, 1), "weight_v": (5, 3, 4)}),
    ],
)
def test_keys_and_shapes_are_those_of_published_checkpoints(module, shapes):
    assert {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()} == shapes
    assert {name for name, _ in module.named_parameters()} == set(shapes)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))], ids=["deepcopy", "pickle"])
def test_can_be_duplicated_after_a_forward_pass(layer, duplicate):
    module, x = layer
    expected = module(x)
    twin = duplicate(module)
    assert torch.equal(twin(x), expected)
    with torch.no_grad():
        twin.weight_g.mul_(2)
    assert torch.equal(module(x), expected)  # nothing is shared
    assert not torch.allclose(twin(x), expected)


@pytest.mark.parametrize("assign", [False, True])
def test_state_dict_round_trip(layer, assign):
    module, x = layer
    other = copy.deepcopy(module)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.normal_()
    other.load_state_dict(module.state_dict(), assign=assign)
    assert torch.equal(other(x), module(x))


def test_gradients_reach_direction_and_gain(layer):
    module, x = layer
    module(x).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in module.parameters())
    # the direction's length has no effect, so its gradient has no component along it
    along = (module.weight_v * module.weight_v.grad).flatten(1).sum(dim=1)
    assert along.abs().max() < 1e-4 * module.weight_v.grad.abs().max()


def test_same_keeps_the_length_for_every_kernel():
    for kernel in range(1, 8):
        assert WNConv1dSame(1, 1, kernel)(torch.randn(1, 1, 10)).shape[-1] == 10


def test_removing_leaves_plain_layers_that_compute_the_same(layer):
    module, x = layer
    expected = module(x)
    torch.testing.assert_close(remove_weight_norm_from_model(nn.Sequential(module))(x), expected, rtol=0, atol=1e-6)
    assert "weight" in module.state_dict() and not [key for key in module.state_dict() if key.startswith("weight_")]
    assert isinstance(module.weight, nn.Parameter)


def test_removing_leaves_other_layers_alone_and_can_be_done_twice():
    model = nn.Sequential(nn.Conv1d(2, 3, 1), WNConv1d(3, 3, 1), nn.Embedding(4, 3), nn.LayerNorm(5))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert remove_weight_norm_from_model(model) is model
    once = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    remove_weight_norm_from_model(model)
    assert set(once) == set(model.state_dict()) == (set(before) - {"1.weight_g", "1.weight_v"}) | {"1.weight"}
    assert all(torch.equal(once[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("frozen", [False, True])
def test_a_collapsed_layer_trains_only_if_it_did_before(frozen):
    layer = WNConv1d(2, 2, 3).requires_grad_(not frozen)
    layer.remove_weight_norm()
    assert layer.weight.requires_grad is not frozen
    assert torch.equal(copy.deepcopy(layer).weight, layer.weight)
    other = WNConv1d(2, 2, 3)
    other.remove_weight_norm()
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other.weight, layer.weight)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_follows_the_data_type(dtype):
    layer = WNConv1d(2, 2, 3).to(dtype)
    x = torch.randn(1, 2, 8)
    assert layer(x.to(dtype)).dtype == dtype
    torch.testing.assert_close(layer(x.to(dtype)).float(), F.conv1d(x, layer.weight.float(), layer.bias.float()), rtol=0.02, atol=0.02)


def test_every_kind_of_weight_norm_is_removed_and_nothing_else():
    with warnings.catch_warnings(action="ignore"):
        old = nn.utils.weight_norm(nn.Linear(4, 4))
    new = nn.utils.parametrizations.weight_norm(nn.ConvTranspose1d(4, 4, 3))
    model = nn.Sequential(WNConv1d(4, 4, 3), new, nn.Conv1d(4, 4, 1), nn.Embedding(3, 4), nn.Sequential(nn.LayerNorm(4), old))
    x = torch.randn(2, 4, 4)
    expected = model[4](model[:3](x)[..., :4])
    assert remove_weight_norm_from_model(model) is model
    torch.testing.assert_close(model[4](model[:3](x)[..., :4]), expected)
    kept = {f"{layer}.{name}" for layer in (0, 1, 2, "4.0", "4.1") for name in ("weight", "bias")} | {"3.weight"}
    assert set(model.state_dict()) == kept
    remove_weight_norm_from_model(model)
