"""Finite scalar quantization, plain and dithered."""

import itertools

import pytest
import torch

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.models.bottlenecks.fsq import FSQ, DitheredFSQ, DitheredFSQBottleneck, FSQBottleneck


@pytest.mark.parametrize("levels", [[5], [8, 5, 5], [3, 4, 2]])
def test_every_index_stands_for_its_own_vector(levels):
    for quantizer in (FSQ(levels), DitheredFSQ(levels)):
        count = quantizer.grid.size
        vectors = quantizer.from_indices(torch.arange(count)[None, :, None])[0]
        assert len(vectors.unique(dim=0)) == count
        assert vectors.abs().max() <= 1


@pytest.mark.parametrize("levels", [2, 3, 4, 5, 8])
def test_fsq_makes_as_many_levels_as_asked_for(levels):
    quantizer = FSQ([levels])
    out, index = quantizer(torch.linspace(-9, 9, 2001)[None, :, None])
    assert sorted(index.unique().tolist()) == list(range(levels))
    assert len(out.unique()) == levels and (out.flatten().diff() >= 0).all()


def test_the_first_channel_counts_fastest():
    quantizer = DitheredFSQ([2, 3, 4])
    digits = quantizer.grid.digits(torch.arange(24))
    assert digits.tolist() == [list(reversed(rest)) for rest in itertools.product(range(4), range(3), range(2))]


@pytest.mark.parametrize("options", [{"levels": [8, 5, 5, 5]}, {"levels": [5, 5], "num_codebooks": 2}, {"levels": [5, 4], "dim": 4}])
def test_fsq_tokens_are_the_latents(options):
    torch.manual_seed(0)
    bottleneck = FSQBottleneck(**options)
    x = torch.randn(2, 4, 9) * 2
    latents, info = bottleneck.encode(x, return_info=True)
    tokens = info["quantizer_indices"]
    assert tokens.shape == (2, bottleneck.num_quantizers, 9) and tokens.dtype == torch.int32  # one codebook has an axis too
    assert tokens.min() >= 0 and tokens.max() < bottleneck.codebook_size
    torch.testing.assert_close(bottleneck.decode_tokens(tokens), latents)


def test_fsq_gradient_is_that_of_the_bounded_value():
    quantizer = FSQ([5])
    x = torch.linspace(-2, 2, 21)[None, :, None].requires_grad_()
    (gradient,) = torch.autograd.grad(quantizer(x)[0].sum(), x)
    bounded = x.tanh() * (4 * 1.001 / 2) / 2
    torch.testing.assert_close(gradient, torch.autograd.grad(bounded.sum(), x)[0])


def test_fsq_counts_exactly_in_half_precision():
    torch.manual_seed(0)
    bottleneck = FSQBottleneck([64, 64])
    x = torch.randn(2, 2, 50)
    latents, info = bottleneck.encode(x.bfloat16(), return_info=True)
    assert latents.dtype == torch.bfloat16
    again = bottleneck.encode(x.bfloat16().float(), return_info=True)[1]
    assert torch.equal(info["quantizer_indices"], again["quantizer_indices"])
    projected = FSQBottleneck([5, 5], dim=4).bfloat16()
    assert projected.encode(torch.randn(1, 4, 3).bfloat16()).dtype == torch.bfloat16


def test_huge_codebooks_do_not_overflow():
    bottleneck = FSQBottleneck([8] * 12)
    tokens = bottleneck.encode(torch.full((1, 12, 1), 9.0), return_info=True)[1]["quantizer_indices"]
    assert tokens.item() == 8**12 - 1


def test_some_of_the_codebooks():
    bottleneck = FSQBottleneck([5, 5], num_codebooks=3)
    latents, info = bottleneck.encode(torch.randn(1, 6, 4), return_info=True)
    partial = bottleneck.decode_tokens(info["quantizer_indices"][:, :2])
    torch.testing.assert_close(partial[:, :4], latents[:, :4])
    assert not partial[:, 4:].any()


# ---- dithered ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{"dim": 4, "levels": 5}, {"dim": 4, "levels": [8, 8], "num_codebooks": 2}, {"dim": 4, "levels": [3, 4, 5, 6]}]
)
def test_dithered_tokens_are_the_latents(options):
    torch.manual_seed(0)
    bottleneck = DitheredFSQBottleneck(**options).eval()
    x = torch.randn(2, 4, 9) * 2
    latents, info = bottleneck.encode(x, return_info=True)
    assert info["quantizer_indices"].shape == (2, 9, bottleneck.num_quantizers)
    torch.testing.assert_close(bottleneck.decode_tokens(info["quantizer_indices"]), latents)
    spacing = torch.tensor([2 / (level - 1) for level in bottleneck.quantizer.grid.levels]).repeat(bottleneck.num_quantizers)
    assert ((x.tanh() - latents).abs() <= spacing[:, None] / 2 + 1e-6).all()


def test_training_is_uniform_noise_of_one_step_but_for_a_few_items():
    quantizer = DitheredFSQ([5], noise_dropout=0.3)
    torch.manual_seed(0)
    z = torch.randn(4000, 6, 1)
    out, index = quantizer(z)
    bounded = z.tanh()
    error = (out - bounded)[..., 0]
    is_raw = (error == 0).all(dim=1)
    is_rounded = ((out[..., 0] * 2).round() / 2 - out[..., 0]).abs().max(dim=1).values < 1e-6
    for share, expected in ((is_raw, 0.09), (is_rounded, 0.3 * 0.7)):
        assert abs(float(share.float().mean()) - expected) < 0.03
    noise = error[~is_raw & ~is_rounded]
    assert noise.abs().max() <= 0.25 and abs(float(noise.var()) - 0.5**2 / 12) < 1e-3
    assert index.min() >= 0 and index.max() <= 4


def test_training_gradient():
    torch.manual_seed(0)
    quantizer = DitheredFSQ([5], noise_dropout=0.5)
    z = torch.randn(20, 6, 1, requires_grad=True)
    (gradient,) = torch.autograd.grad(quantizer(z)[0].sum(), z)
    torch.testing.assert_close(gradient, 1 - z.detach().tanh().square())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FSQBottleneck([]), "fsq bottleneck: needs at least one level count"),
        (lambda: FSQBottleneck([5, 1]), r"each 2 or more.*got \[5, 1\] and 1"),
        (lambda: FSQBottleneck([5, 5], dim=4).encode(torch.zeros(1, 3, 2)), "fsq bottleneck: got 3 channels, but dim"),
        (lambda: DitheredFSQBottleneck(3, [5, 5]), "dim is 3, but there are 2 levels for 1 codebooks; dim must be 2, or 2"),
        (lambda: DitheredFSQBottleneck(2, 5).encode(torch.zeros(1, 3, 2)), "dithered_fsq bottleneck: got 3 channels"),
    ],
)
def test_mistakes(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
