"""Snake, the anti-aliasing filters, and the activations by name."""

import math

import pytest
import torch
from torch import nn

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.models.layers.activations import Antialiased, SnakeBeta, get_activation, kaiser_sinc_filter
from stable_audio_tools.models.layers.snake import snake


def plain_snake(x, frequency, height):
    return x + height * torch.sin(frequency * x).square()


def arguments(dtype=torch.float32, shape=(2, 3, 50)):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator, dtype=torch.float64) * 3
    frequency, height = (torch.rand(shape[1], 1, generator=generator, dtype=torch.float64) + 0.3 for _ in range(2))
    return [tensor.to(dtype).requires_grad_() for tensor in (x, frequency, height)]


def test_snake_and_its_gradients_equal_the_plain_formula():
    weight = torch.randn(2, 3, 50)
    results = []
    for function in (snake, plain_snake):
        inputs = arguments()
        y = function(*inputs)
        results.append([y.detach(), *torch.autograd.grad((y * weight).sum(), inputs)])
    for ours, plain in zip(*results, strict=True):
        assert (ours - plain).abs().max() <= 1e-6 * plain.abs().max()


def test_snake_gradients_against_finite_differences():
    assert torch.autograd.gradcheck(snake, arguments(torch.float64, (2, 3, 4)))


def test_snake_computes_gradients_only_where_they_are_wanted():
    x, frequency, height = arguments()
    grad = torch.autograd.grad(snake(x, frequency.detach(), height).sum(), [x, height])
    reference = torch.autograd.grad(plain_snake(x, frequency.detach(), height).sum(), [x, height])
    torch.testing.assert_close(grad, reference)


def test_snake_keeps_its_input():
    x, frequency, height = (tensor.detach() for tensor in arguments())
    before = x.clone()
    snake(x, frequency, height)
    assert torch.equal(x, before)


def test_snake_does_not_pretend_to_have_second_derivatives():
    x, frequency, height = arguments()
    (grad,) = torch.autograd.grad(snake(x, frequency, height).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError):
        grad.sum().backward()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 2**-8), (torch.float16, 2**-11)])
def test_snake_in_half_precision_computes_in_float32(dtype, tolerance):
    x, frequency, height = arguments()
    half = x.detach().to(dtype).requires_grad_()
    y = snake(half, frequency, height)
    exact = plain_snake(half.float(), frequency, height)
    assert y.dtype == dtype
    assert ((y.float() - exact).abs() <= tolerance * exact.abs() + 1e-6).all()  # one rounding, at the end
    y.float().sum().backward()
    assert half.grad.dtype == dtype and frequency.grad.dtype == torch.float32


def test_snake_beta_is_the_published_formula_with_logarithmic_parameters():
    module = SnakeBeta(3)
    assert {name: tuple(p.shape) for name, p in module.named_parameters()} == {"alpha": (3,), "beta": (3,)}
    assert not any(parameter.any() for parameter in module.parameters())
    with torch.no_grad():
        module.alpha.normal_()
        module.beta.normal_()
    x = torch.randn(2, 3, 20)
    a, b = module.alpha.exp()[:, None], module.beta.exp()[:, None]
    torch.testing.assert_close(module(x), x + (b + 1e-9).reciprocal() * (x * a).sin().square())


def test_kaiser_filter_passes_dc_and_stops_the_upper_half():
    taps = kaiser_sinc_filter(0.25, 0.3, 12)
    assert taps.shape == (1, 1, 12)
    assert abs(float(taps.sum()) - 1) < 1e-6
    torch.testing.assert_close(taps, taps.flip(-1))

    def gain(frequency):  # of the sample rate
        time = torch.arange(12) - 5.5
        return abs(float((taps[0, 0] * torch.cos(2 * math.pi * frequency * time)).sum()))

    assert gain(0.02) > 0.98
    assert gain(0.25) == pytest.approx(0.5, abs=0.05)  # half way down at the cut-off
    assert gain(0.5) < 0.01


@pytest.mark.parametrize(("half_width", "size"), [(0.3, 12), (0.02, 12), (0.2, 12)])  # the three branches of Kaiser's beta
def test_kaiser_filter_has_unit_sum(half_width, size):
    taps = kaiser_sinc_filter(0.25, half_width, size)
    assert torch.isfinite(taps).all() and abs(float(taps.sum()) - 1) < 1e-6


@pytest.mark.parametrize("length", [1, 2, 7, 64])
def test_antialiased_keeps_length_and_constants(length):
    module = Antialiased(nn.Identity())
    assert module(torch.randn(2, 3, length)).shape == (2, 3, length)
    torch.testing.assert_close(module(torch.full((1, 2, length), 0.7)), torch.full((1, 2, length), 0.7))


def test_antialiased_identity_passes_low_tones():
    x = torch.sin(torch.arange(400) * 0.2)[None, None]
    assert (Antialiased(nn.Identity())(x) - x)[..., 20:-20].abs().max() < 0.02


def test_antialiasing_removes_harmonics_that_fold_back():
    """A tone at 0.3 of the rate: its square holds 0.6, which folds to 0.4."""
    tone = torch.sin(2 * math.pi * 0.3 * torch.arange(1000))[None, None]

    class Square(nn.Module):
        def forward(self, x):
            return x * x

    def alias(y):
        return torch.fft.rfft(y[0, 0, 100:900] * torch.hann_window(800)).abs()[320]

    assert alias(Antialiased(Square())(tone)) < 0.3 * alias(Square()(tone))  # -11.6 dB: twelve taps are not many


def test_antialiased_has_the_published_buffers():
    assert {name: tuple(tensor.shape) for name, tensor in Antialiased(SnakeBeta(2)).state_dict().items()} == {
        "act.alpha": (2,),
        "act.beta": (2,),
        "upsample.filter": (1, 1, 12),
        "downsample.lowpass.filter": (1, 1, 12),
    }


@pytest.mark.parametrize(("name", "kind"), [("elu", nn.ELU), ("snake", SnakeBeta), ("none", nn.Identity)])
def test_activation_by_name(name, kind):
    assert isinstance(get_activation(name, channels=3), kind)
    wrapped = get_activation(name, antialias=True, channels=3)
    assert isinstance(wrapped, Antialiased) and isinstance(wrapped.act, kind)


@pytest.mark.parametrize(("name", "message"), [("relu", "unknown activation 'relu'; known: elu"), ("snake", "pass channels")])
def test_impossible_activations(name, message):
    with pytest.raises(ConfigError, match=message):
        get_activation(name)
