"""Snake, the anti-aliasing filters, and the activations by name."""

import math
import os
import subprocess
import sys
import weakref

import pytest
import torch
import torch.utils.checkpoint
from torch import nn

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.models.layers.activations import Antialiased, SnakeBeta, get_activation, kaiser_sinc_filter
from stable_audio_tools.models.layers.snake import _kernels, snake


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


def test_snake_has_second_derivatives():
    assert torch.autograd.gradgradcheck(snake, arguments(torch.float64, (2, 2, 3)))


def test_a_penalty_on_gradients_equals_the_plain_formulas():
    results = []
    for function in (snake, plain_snake):
        inputs = arguments()
        grads = torch.autograd.grad(function(*inputs).square().sum(), inputs, create_graph=True)
        penalty = torch.stack([grad.square().mean() for grad in grads]).sum()
        results.append(torch.autograd.grad(penalty, inputs))
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-4)


def test_snake_with_torch_func():
    x, frequency, height = (tensor.detach() for tensor in arguments(torch.float64, (2, 2, 3)))
    for position in range(3):

        def ours(value, function=snake, position=position):
            inputs = [x, frequency, height]
            inputs[position] = value
            return function(*inputs).square().sum()

        def plain(value, ours=ours):
            return ours(value, function=plain_snake)

        value = (x, frequency, height)[position]
        for transform in (torch.func.grad, torch.func.jacrev, torch.func.jacfwd, torch.func.hessian):
            torch.testing.assert_close(transform(ours)(value), transform(plain)(value))


@pytest.mark.parametrize("in_dims", [(0, None, None), (None, 0, 0), (0, 0, 0), (2, None, 1), (1, 1, None)])
def test_snake_with_vmap(in_dims):
    x, frequency, height = (tensor.detach() for tensor in arguments())
    inputs = [t if dim is None else torch.stack([t, t * 0.5, t + 1], dim) for t, dim in zip((x, frequency, height), in_dims, strict=True)]
    torch.testing.assert_close(torch.vmap(snake, in_dims)(*inputs), torch.vmap(plain_snake, in_dims)(*inputs))

    def per_item(function):
        return torch.vmap(torch.func.grad(lambda *values: function(*values).square().sum(), argnums=(0, 1, 2)), in_dims)(*inputs)

    torch.testing.assert_close(per_item(snake), per_item(plain_snake), rtol=1e-4, atol=1e-4)


def test_snake_forward_mode():
    x, frequency, height = (tensor.detach() for tensor in arguments(torch.float64))
    tangents = [torch.randn_like(tensor) for tensor in (x, frequency, height)]
    ours, plain = (torch.func.jvp(function, (x, frequency, height), tuple(tangents)) for function in (snake, plain_snake))
    torch.testing.assert_close(ours, plain)


def test_recomputing_lets_go_of_snakes_input():
    x, frequency, height = arguments()
    inside = []

    def layer(x):
        x = x * 1.0
        inside.append(weakref.ref(x))
        return snake(x, frequency, height)

    y = torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=False)
    assert y.requires_grad and inside[0]() is None


# ---- on a GPU --------------------------------------------------------------------------------------------------------------------------


SHAPES = [(2, 3, 50), (1, 2, 1024), (2, 1, 2500)]


def check_kernels(shape, dtype):
    """Compare the GPU's kernels with the CPU's function; to be run in Triton's interpreter, which computes on the CPU."""
    from stable_audio_tools.models.layers import snake_triton

    x, frequency, height = arguments(shape=shape)
    x = x.detach().to(dtype).requires_grad_()
    grad = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    y = snake(x, frequency, height)
    expected = [y.detach(), *torch.autograd.grad(y, [x, frequency, height], grad)]
    inputs = [tensor.detach() for tensor in (x, frequency, height)]
    found = [snake_triton.forward(*inputs), *snake_triton.backward(grad, *inputs)]
    for ours, reference in zip(found, expected, strict=True):
        assert ours.shape == reference.shape and ours.dtype == reference.dtype
        tolerance = 1e-6 if ours.dtype == torch.float32 else 2**-10
        assert (ours - reference).abs().max() <= tolerance * scale_of(reference, shape)


def scale_of(result, shape):
    """What errors of a result are relative to; a sum over all steps of a channel has that many terms of about 1, of either sign."""
    return max(1.0, float(result.detach().abs().max()), shape[0] * shape[2] if result.numel() == shape[1] else 0)


@pytest.mark.slow
def test_the_kernels_in_an_interpreter():
    pytest.importorskip("triton")
    code = "import runpy; tests = runpy.run_path(sys.argv[1]); [tests['check_kernels'](s, d) for s in tests['SHAPES'] for d in DTYPES]"
    code = f"import sys, torch; DTYPES = (torch.float32, torch.float16); {code}"
    environment = {**os.environ, "TRITON_INTERPRET": "1"}  # read when Triton is imported
    run = subprocess.run([sys.executable, "-c", code, __file__], env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_without_a_working_kernel_there_is_another_way(caplog):
    caplog.set_level("INFO")
    if torch.cuda.is_available():
        pytest.skip("the kernel may work here")
    _kernels.cache_clear()
    assert _kernels() is None and _kernels() is None
    assert [record.message for record in caplog.records if "its GPU kernel does not work here" in record.message] == [caplog.messages[0]]


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(2, 3, 50), (2, 16, 5000)])
def test_snake_on_a_gpu_equals_the_plain_formula(cuda, shape):
    weight, results = torch.randn(shape), []
    for function, device in ((snake, cuda), (plain_snake, "cpu")):
        inputs = [tensor.detach().to(device).requires_grad_() for tensor in arguments(shape=shape)]
        y = function(*inputs)
        results.append([y.detach(), *torch.autograd.grad((y * weight.to(device)).sum(), inputs)])
    for ours, plain in zip(*results, strict=True):
        assert (ours.cpu() - plain).abs().max() <= 1e-6 * scale_of(plain, shape)


@pytest.mark.gpu
def test_there_is_a_kernel_on_a_gpu(cuda):
    pytest.importorskip("triton")
    assert _kernels() is not None


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
