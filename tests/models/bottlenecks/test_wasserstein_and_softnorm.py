"""Bottlenecks that shape the distribution of latents as a whole."""

import pytest
import torch

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.models.bottlenecks.softnorm import SoftNormBottleneck
from stable_audio_tools.models.bottlenecks.wasserstein import WassersteinBottleneck, maximum_mean_discrepancy, mean_kernel


def test_kernel_equals_the_formula():
    a, b = torch.randn(7, 3), torch.randn(5, 3)
    distances = (a[:, None] - b[None]).square().mean(dim=-1) / 3
    torch.testing.assert_close(mean_kernel(a, b), (-distances).exp().mean())


def test_discrepancy_is_small_for_a_gaussian_and_grows_with_distance():
    torch.manual_seed(0)
    values = [
        float(maximum_mean_discrepancy(torch.randn(4, 2, 300) * scale + shift)) for scale, shift in ((1, 0), (1, 1), (1, 4), (0.1, 0))
    ]
    assert abs(values[0]) < 5e-3 and values[0] < values[1] < values[2] and values[3] > 10 * abs(values[0])


def test_loss_in_training_only():
    bottleneck = WassersteinBottleneck()
    x = torch.randn(2, 4, 9, requires_grad=True)
    latents, info = bottleneck.encode(x, return_info=True)
    assert latents is x
    assert torch.autograd.grad(info["mmd"], x)[0].abs().sum() > 0
    assert bottleneck.eval().encode(x, return_info=True)[1] == {}
    assert WassersteinBottleneck(bypass_mmd=True).encode(x, return_info=True)[1]["mmd"] == 0


def test_tanh_and_noise():
    bottleneck = WassersteinBottleneck(noise_augment_dim=2, use_tanh=True, tanh_scale=3.0).eval()
    x = torch.randn(2, 4, 9) * 20
    torch.testing.assert_close(bottleneck.encode(x), torch.tanh(x / 3) * 3)
    torch.manual_seed(0)
    out = bottleneck.decode(x)
    torch.manual_seed(0)
    assert torch.equal(out, torch.cat([x, torch.randn(2, 2, 9)], dim=1))


def test_tanh_scale_must_be_positive():
    with pytest.raises(ConfigError, match="wasserstein bottleneck: tanh_scale must be positive, got 0"):
        WassersteinBottleneck(tanh_scale=0)


# ---- softnorm ------------------------------------------------------------------------------------------------------------------------


def softnorm(**options):
    bottleneck = SoftNormBottleneck(dim=4, **options)
    with torch.no_grad():
        bottleneck.scaling_factor.uniform_(0.5, 2)
        bottleneck.bias.normal_()
        if bottleneck.running_std is not None:
            bottleneck.running_std.fill_(3.0)
    return bottleneck


@pytest.mark.parametrize("auto_scale", [False, True])
def test_latents_are_scaled_and_shifted(auto_scale):
    bottleneck = softnorm(auto_scale=auto_scale).eval()
    x = torch.randn(2, 4, 9)
    expected = (x * bottleneck.scaling_factor + bottleneck.bias) / (3 if auto_scale else 1)
    latents = bottleneck.encode(x)
    torch.testing.assert_close(latents, expected)
    torch.testing.assert_close(bottleneck.decode(latents), expected * (3 if auto_scale else 1))


def test_running_deviation_follows_the_data_in_training_unless_frozen():
    x = torch.randn(8, 4, 100) * 5
    for options, moves in (({}, True), ({"freeze": True}, False)):
        bottleneck = softnorm(auto_scale=True, **options)
        after = (x * bottleneck.scaling_factor + bottleneck.bias).std()
        bottleneck.encode(x)
        torch.testing.assert_close(bottleneck.running_std.item(), (0.999 * 3 + 0.001 * after.item()) if moves else 3.0)
        bottleneck.eval().encode(x * 100)
        torch.testing.assert_close(bottleneck.running_std.item(), (0.999 * 3 + 0.001 * after.item()) if moves else 3.0)


def test_running_deviation_is_never_trained():
    bottleneck = softnorm(auto_scale=True, noise_regularize=True).requires_grad_(True)
    assert set(dict(bottleneck.named_parameters())) == {"scaling_factor", "bias", "noise_scaling_factor"}
    bottleneck.decode(bottleneck.encode(torch.randn(2, 4, 9))).square().sum().backward()
    assert bottleneck.running_std.grad is None and bottleneck.bias.grad.abs().sum() > 0


def test_softnorm_loss_is_zero_for_normal_latents_only():
    bottleneck = SoftNormBottleneck(dim=64).requires_grad_(False)
    torch.manual_seed(0)
    x = torch.randn(8, 64, 4000)
    losses = [float(bottleneck.encode(y, return_info=True)[1]["softnorm_loss"]) for y in (x, 2 * x, x + 1)]
    assert losses[0] < 0.05 and losses[1] == pytest.approx(1.4 * (4 - torch.log(torch.tensor(4.0)).item() - 1), abs=0.05)
    assert losses[2] == pytest.approx(1.4, abs=0.05)
    assert bottleneck.eval().encode(x, return_info=True)[1] == {}


@pytest.mark.parametrize(("training", "amount"), [(True, 5e-2), (False, 1e-3)])
@pytest.mark.parametrize("auto_scale", [False, True])
def test_noise_before_the_decoder(training, amount, auto_scale):
    bottleneck = softnorm(noise_regularize=True, auto_scale=auto_scale).train(training)
    x = torch.randn(2, 4, 500) * 2
    torch.manual_seed(0)
    out = bottleneck.decode(x)
    torch.manual_seed(0)
    base = x * 3 if auto_scale else x
    spread = 3 if auto_scale else x.std(dim=-1, keepdim=True)
    torch.testing.assert_close(out, base + torch.randn_like(x) * spread * amount)


def test_channels_of_noise_have_gains():
    bottleneck = SoftNormBottleneck(dim=4, noise_augment_dim=2).requires_grad_(False)
    with torch.no_grad():
        bottleneck.noise_scaling_factor.copy_(torch.tensor([0.0, 2.0]).view(1, 2, 1))
    out = bottleneck.decode(torch.zeros(2, 4, 5000))
    assert out.shape == (2, 6, 5000) and not out[:, 4].any() and float(out[:, 5].std()) == pytest.approx(2, rel=0.05)


def test_softnorm_keys_and_width():
    shapes = {key: tuple(value.shape) for key, value in softnorm(auto_scale=True).state_dict().items()}
    assert shapes == {"scaling_factor": (1, 4, 1), "bias": (1, 4, 1), "noise_scaling_factor": (1, 0, 1), "running_std": (1,)}
    with pytest.raises(ConfigError, match="softnorm bottleneck: got 3 channels, but dim is 4"):
        softnorm().encode(torch.zeros(1, 3, 2))
