"""Packed weights: the same numbers, only where they help, and nothing left behind."""

import pytest
import torch
from torch import nn

from stable_audio_tools.models.layers import packing
from stable_audio_tools.models.layers.packing import packed_linears

needs_bfloat16 = pytest.mark.skipif(not packing._is_supported(), reason="this CPU has no bfloat16 products in oneDNN")


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(48, 96), nn.GELU(), nn.Linear(96, 32, bias=False)).bfloat16()


def is_packed(model):
    return ["forward" in layer.__dict__ for layer in model if isinstance(layer, nn.Linear)]


@needs_bfloat16
@pytest.mark.parametrize("rows", [1, 6, 200])
@torch.no_grad()
def test_results_are_equal_bit_for_bit_and_nothing_stays(model, rows):
    x = torch.randn(2, rows, 48).bfloat16()
    expected = model(x)
    with packed_linears(model, num_calls=50, rows=2 * rows):
        assert is_packed(model) == [True, True]
        assert torch.equal(model(x), expected)
        assert torch.equal(model(x[0, 0]), expected[0, 0])  # another shape than it was packed for
    assert is_packed(model) == [False, False]
    assert torch.equal(model(x), expected)


@needs_bfloat16
def test_gradients_pass_through_the_layers_own_weights(model):
    x = torch.randn(3, 48).bfloat16()
    with packed_linears(model, num_calls=50, rows=3):
        model(x).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@needs_bfloat16
@torch.no_grad()
def test_generations_at_the_same_time_leave_each_other_alone(model):
    x = torch.randn(3, 48).bfloat16()
    expected = model(x)
    with packed_linears(model, num_calls=50, rows=3):
        with packed_linears(model, num_calls=50, rows=3):
            assert torch.equal(model(x), expected)
        assert is_packed(model) == [True, True]
    assert is_packed(model) == [False, False]


@pytest.mark.parametrize(("dtype", "num_calls"), [(torch.float32, 50), (torch.float16, 50), (torch.bfloat16, 1)])
def test_nothing_is_packed_where_numbers_would_differ_or_it_does_not_pay(model, dtype, num_calls):
    with packed_linears(model.to(dtype), num_calls=num_calls, rows=3):
        assert is_packed(model) == [False, False]


@needs_bfloat16
def test_an_error_inside_leaves_nothing_behind(model):
    with pytest.raises(ZeroDivisionError), packed_linears(model, num_calls=50, rows=3):
        _ = 1 / 0
    assert is_packed(model) == [False, False]
