"""Numbers, continuous and as a table."""

import math

import pytest
import torch

from stable_audio_tools.errors import ConfigError, DataError
from stable_audio_tools.models.conditioners import IntConditioner, NumberConditioner


def embed(conditioner, *values):
    with torch.no_grad():
        return conditioner(values, "cpu").embedding[:, 0]


@pytest.mark.parametrize("make", [lambda: NumberConditioner(6), lambda: IntConditioner(6)])
def test_shape_and_mask(make):
    embedding, mask = make()([0, 1, 0], "cpu")
    assert embedding.shape == (3, 1, 6) and embedding.dtype == torch.float32
    assert torch.equal(mask, torch.ones(3, 1))
    torch.testing.assert_close(embedding[0], embedding[2], atol=1e-6, rtol=0)
    assert not torch.allclose(embedding[0], embedding[1], atol=1e-3)


def test_numbers_are_clamped_and_scaled_to_the_range():
    torch.manual_seed(0)
    conditioner = NumberConditioner(6, min_val=-10, max_val=30)
    torch.testing.assert_close(embed(conditioner, -10, 30), embed(conditioner, -1e9, float("inf")), atol=1e-6, rtol=0)
    torch.testing.assert_close(embed(conditioner, 10), conditioner.embedder(torch.tensor([0.5])))
    assert len(embed(conditioner, *range(-10, 31)).unique(dim=0)) == 41


def test_numbers_are_embedded_continuously():
    torch.manual_seed(0)
    conditioner = NumberConditioner(6)
    step = (embed(conditioner, 0.5) - embed(conditioner, 0.5 + 1e-4)).abs().max()
    assert 0 < step < 5e-3


@pytest.mark.parametrize("values", [(3, 3.0), ("3", 3), (torch.tensor([3]), 3), (torch.tensor(3.0), 3)])
@pytest.mark.parametrize("make", [lambda: NumberConditioner(6, max_val=9), lambda: IntConditioner(6, max_val=9)])
def test_a_number_in_any_shape_is_that_number(make, values):
    first, second = embed(make(), *values)
    torch.testing.assert_close(first, second, atol=1e-6, rtol=0)


@pytest.mark.parametrize("value", ["fast", None, float("nan"), "nan", torch.zeros(2), [1, 2]])
@pytest.mark.parametrize(("name", "make"), [("number", lambda: NumberConditioner(6)), ("int", lambda: IntConditioner(6))])
def test_what_is_no_number(name, make, value):
    with pytest.raises(DataError, match=f"conditioner '{name}': expected a number, got"):
        make()([1, value], "cpu")


@pytest.mark.parametrize(("low", "high"), [(1, 1), (2, 1)])
def test_number_needs_a_range(low, high):
    with pytest.raises(ConfigError, match=f"'number': min_val must be less than max_val, got {low} and {high}"):
        NumberConditioner(6, min_val=low, max_val=high)


def test_number_has_the_published_keys_and_follows_half_precision():
    conditioner = NumberConditioner(6)
    assert {name: tuple(tensor.shape) for name, tensor in conditioner.state_dict().items()} == {
        "embedder.embedding.0.weights": (128,),
        "embedder.embedding.1.weight": (6, 257),
        "embedder.embedding.1.bias": (6,),
    }
    assert conditioner.bfloat16()([0.5], "cpu").embedding.dtype == torch.bfloat16


def test_int_looks_its_row_up_and_clamps():
    conditioner = IntConditioner(6, max_val=4)
    assert {name: tuple(tensor.shape) for name, tensor in conditioner.state_dict().items()} == {"int_embedder.weight": (5, 6)}
    assert torch.equal(embed(conditioner, *range(5)), conditioner.int_embedder.weight)
    assert torch.equal(embed(conditioner, -3, 7, float("inf")), embed(conditioner, 0, 4, 4))


@pytest.mark.parametrize(("low", "high"), [(1, 5), (-1, 5), (0, -1)])
def test_int_refuses_ranges_that_its_table_cannot_hold(low, high):
    with pytest.raises(ConfigError, match=f"'int'.*min_val must be 0 and max_val at least 0, got {low} and {high}; shift the values"):
        IntConditioner(6, min_val=low, max_val=high)


def test_fixed_frequencies_have_no_weights_and_are_what_they_are_said_to_be():
    conditioner = NumberConditioner(6, max_val=384, fourier_features_type="expo")
    assert {key: tuple(value.shape) for key, value in conditioner.state_dict().items()} == {
        "embedder.embedding.1.weight": (6, 256),
        "embedder.embedding.1.bias": (6,),
    }
    features = conditioner.embedder.embedding[0](torch.tensor([0.0, 0.3], dtype=torch.float64))
    assert features.shape == (2, 256) and features[0].tolist() == [1.0] * 128 + [0.0] * 128
    frequencies = torch.logspace(math.log10(0.5), 4, 128, dtype=torch.float64)
    expected = torch.cat([(2 * torch.pi * 0.3 * frequencies).cos(), (2 * torch.pi * 0.3 * frequencies).sin()])
    torch.testing.assert_close(features[1], expected, atol=0.03, rtol=0)  # 3,000 periods in float32
    assert len(embed(conditioner, *range(384)).unique(dim=0)) == 384
