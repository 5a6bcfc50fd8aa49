"""Embeddings of times, numbers and positions."""

import math

import pytest
import torch

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.models.layers.embeddings import (
    AbsolutePositionalEmbedding,
    FourierFeatures,
    LearnedPositionalEmbedding,
    NumberEmbedder,
    RotaryEmbedding,
    ScaledSinusoidalEmbedding,
    apply_rotary,
)


def test_fourier_features_are_cosines_then_sines_of_unit_length():
    features = FourierFeatures(1, 8)
    t = torch.rand(5, 1)
    y = features(t)
    angle = 2 * math.pi * t * features.weight.T
    torch.testing.assert_close(y, torch.cat([angle.cos(), angle.sin()], dim=-1), atol=1e-5, rtol=0)
    torch.testing.assert_close(y[:, :4].square() + y[:, 4:].square(), torch.ones(5, 4))


def test_learned_positions_are_the_number_then_sines_then_cosines():
    embedding = LearnedPositionalEmbedding(6)
    x = torch.rand(4)
    y = embedding(x)
    assert y.shape == (4, 7)
    angle = 2 * math.pi * x[:, None] * embedding.weights
    torch.testing.assert_close(y, torch.cat([x[:, None], angle.sin(), angle.cos()], dim=-1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_number_embedder_takes_any_shape(shape):
    embedder = NumberEmbedder(features=5, dim=8)
    x = torch.rand(shape)
    y = embedder(x)
    assert y.shape == (*shape, 5)
    torch.testing.assert_close(y.reshape(-1, 5), torch.stack([embedder(value) for value in x.flatten()]))


def test_number_embedder_has_the_published_keys():
    assert {name: tuple(tensor.shape) for name, tensor in NumberEmbedder(features=5).state_dict().items()} == {
        "embedding.0.weights": (128,),
        "embedding.1.weight": (5, 257),
        "embedding.1.bias": (5,),
    }


# ---- rotary -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [8, 6])  # all features of a head, or the first six
def test_rotary_scores_depend_on_the_difference_of_positions_only(dim):
    angles = RotaryEmbedding(dim).forward_from_seq_len(12)
    q, k = torch.randn(8), torch.randn(8)
    rotated_q = apply_rotary(q.expand(1, 1, 12, 8), angles)[0, 0]
    rotated_k = apply_rotary(k.expand(1, 1, 12, 8), angles)[0, 0]
    scores = rotated_q @ rotated_k.T  # (12, 12)
    for difference in range(-11, 12):
        diagonal = scores.diagonal(difference)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-5, rtol=0)
    assert scores[0].std() > 0.1  # and they do depend on that


def test_rotary_keeps_lengths_and_further_features_and_leaves_the_first_position():
    angles = RotaryEmbedding(4).forward_from_seq_len(7)
    x = torch.randn(2, 3, 7, 6)
    y = apply_rotary(x, angles)
    torch.testing.assert_close(y[..., :4].norm(dim=-1), x[..., :4].norm(dim=-1))
    assert torch.equal(y[..., 4:], x[..., 4:])
    assert torch.equal(y[:, :, 0], x[:, :, 0])


def test_rotary_computes_in_float32_and_takes_the_last_angles():
    angles = RotaryEmbedding(4).forward_from_seq_len(10)
    x = torch.randn(1, 1, 3, 4).bfloat16()
    assert apply_rotary(x, angles).dtype == torch.float32
    assert torch.equal(apply_rotary(x, angles), apply_rotary(x, angles[-3:]))


def test_rotary_angles_do_not_lose_precision_in_a_half_model():
    module = RotaryEmbedding(4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        angles = module.forward_from_seq_len(2001)
    assert angles.dtype == torch.float32
    assert float(angles[2000, 0]) == 2000.0


def test_rotary_keys():
    frequencies = RotaryEmbedding(8).state_dict()["inv_freq"]
    torch.testing.assert_close(frequencies, torch.tensor([1, 1e-1, 1e-2, 1e-3]))


# ---- additive positions -------------------------------------------------------------------------------------------------------------


def test_absolute_positions():
    embedding = AbsolutePositionalEmbedding(16, max_seq_len=5)
    torch.testing.assert_close(embedding(torch.zeros(2, 4, 16)), embedding.emb.weight[:4] / 4)
    with pytest.raises(ConfigError, match=r"sequence of 6 steps.*knows 5; raise abs_pos_emb_max_length"):
        embedding(torch.zeros(2, 6, 16))


def test_sinusoidal_positions():
    embedding = ScaledSinusoidalEmbedding(16)
    y = embedding(torch.zeros(2, 9, 16))
    assert y.shape == (9, 16)
    torch.testing.assert_close(y.square().sum(dim=-1), torch.full((9,), 8 / 16))  # each pair has unit length, times 16 ** -1/2
    assert set(embedding.state_dict()) == {"scale"}
    assert (torch.cdist(y, y) + torch.eye(9) > 0.05).all()  # no two positions are alike
