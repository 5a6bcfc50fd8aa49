"""What stands between encoder and decoder."""

import math

import pytest
import torch

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.families import BOTTLENECKS
from stable_audio_tools.models.bottlenecks import Bottleneck, DiscreteBottleneck, L2Bottleneck, TanhBottleneck, VAEBottleneck, vae_sample

SMALL = {  # options that make latents of four channels
    "rvq": {"dim": 4, "codebook_size": 8, "num_quantizers": 3, "kmeans_iters": 2},
    "rvq_vae": {"dim": 4, "codebook_size": 8, "num_quantizers": 3, "kmeans_iters": 2},
    "dac_rvq": {"input_dim": 4, "codebook_size": 8, "n_codebooks": 3, "codebook_dim": 2},
    "dac_rvq_vae": {"input_dim": 4, "codebook_size": 8, "n_codebooks": 3, "codebook_dim": 2},
    "fsq": {"levels": [5, 4], "num_codebooks": 2},
    "dithered_fsq": {"dim": 4, "levels": 5},
    "softnorm": {"dim": 4},
}


@pytest.mark.parametrize("name", BOTTLENECKS.names())
def test_contract(name):
    bottleneck = BOTTLENECKS.build(name, SMALL.get(name))
    assert isinstance(bottleneck, Bottleneck)
    facts = BOTTLENECKS.part(name).facts
    x = torch.randn(2, 4 * (facts.get("encoder_width") or 1), 5)
    latents, info = bottleneck.encode(x, return_info=True)  # in training mode
    assert latents.shape == (2, 4, 5) and bottleneck.encode(x).shape == (2, 4, 5)
    assert set(bottleneck.loss_weights) <= set(info)
    assert all(torch.isfinite(info[name]) for name in bottleneck.loss_weights)
    assert bottleneck.decode(latents).shape == (2, 4, 5)
    assert bottleneck.eval().encode(x).shape == (2, 4, 5)
    assert facts.get("width_key") is None or BOTTLENECKS.schema(name).value(SMALL[name], facts["width_key"]) in (4, None)
    assert bottleneck.is_discrete is isinstance(bottleneck, DiscreteBottleneck)


# ---- VAE -----------------------------------------------------------------------------------------------------------------------------


def normal(mean, deviation, count=200_000):
    """Encoder output of (1, 2, count) that describes N(mean, deviation)."""
    scale = math.log(math.expm1(deviation - 1e-4))  # softplus(scale) + 1e-4 == deviation
    return torch.stack([torch.full((count,), mean), torch.full((count,), scale)])[None]


@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 1.0), (2.0, 0.5), (-1.0, 3.0)])
def test_samples_have_the_mean_and_spread_described(mean, deviation):
    torch.manual_seed(0)
    latents = VAEBottleneck().encode(normal(mean, deviation))
    error = deviation / math.sqrt(latents.numel())
    assert abs(float(latents.mean()) - mean) < 4 * error
    assert abs(float(latents.std()) - deviation) < 4 * error


@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 1.0), (2.0, 0.5), (-1.0, 3.0)])
@pytest.mark.parametrize("sample", [True, False])
def test_divergence_is_twice_that_of_the_textbook_summed_over_channels(mean, deviation, sample):
    x = normal(mean, deviation, count=7)
    x = torch.cat([x[:, :1]] * 3 + [x[:, 1:]] * 3, dim=1)  # three channels
    _, info = VAEBottleneck().encode(x, return_info=True, sample=sample)
    textbook = torch.distributions.kl_divergence(torch.distributions.Normal(mean, deviation), torch.distributions.Normal(0.0, 1.0))
    assert float(info["kl"]) == pytest.approx(3 * 2 * float(textbook), rel=1e-4)


def test_mean_instead_of_a_sample_draws_nothing():
    x = torch.randn(2, 8, 5)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    assert torch.equal(VAEBottleneck().encode(x, sample=False), x[:, :4])
    assert torch.equal(torch.get_rng_state(), state)
    VAEBottleneck().encode(x)
    assert not torch.equal(torch.get_rng_state(), state)


def test_samples_in_eval_mode_too_with_one_draw():
    x = torch.randn(2, 8, 5)
    torch.manual_seed(1)
    latents = VAEBottleneck().eval().encode(x)
    torch.manual_seed(1)
    noise = torch.randn(2, 4, 5)
    torch.testing.assert_close(latents, noise * (torch.nn.functional.softplus(x[:, 4:]) + 1e-4) + x[:, :4])


def test_gradient_flows_through_the_sample():
    mean, scale = torch.randn(1, 2, 3, requires_grad=True), torch.randn(1, 2, 3, requires_grad=True)
    latents, kl = vae_sample(mean, scale)
    (latents.square().sum() + kl).backward()
    assert mean.grad.abs().min() > 0 and scale.grad.abs().min() > 0


def test_extreme_scales_stay_finite():
    for scale in (-1e4, 1e4):
        latents, kl = vae_sample(torch.zeros(1, 2, 3), torch.full((1, 2, 3), scale))
        assert torch.isfinite(latents).all() and torch.isfinite(kl)


def test_options_of_other_bottlenecks_are_ignored():
    assert VAEBottleneck().encode(torch.randn(1, 4, 3), n_quantizers=3).shape == (1, 2, 3)


# ---- tanh and L2 ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_tanh_bounds_without_changing_small_values(scale):
    bottleneck = TanhBottleneck(scale)
    x = torch.linspace(-50, 50, 101)[None, None]
    assert bottleneck.encode(x).abs().max() <= scale
    torch.testing.assert_close(bottleneck.encode(x * 1e-4), x * 1e-4, rtol=1e-3, atol=1e-6)
    assert torch.equal(bottleneck.decode(x), x)


@pytest.mark.parametrize("scale", [0.0, -1.0])
def test_tanh_needs_a_positive_scale(scale):
    with pytest.raises(ConfigError, match=f"tanh bottleneck: scale must be positive, got {scale}"):
        TanhBottleneck(scale)


def test_l2_puts_every_frame_on_the_sphere_both_ways():
    bottleneck = L2Bottleneck()
    x = torch.randn(2, 4, 5) * 3
    latents = bottleneck.encode(x)
    torch.testing.assert_close(latents.norm(dim=1), torch.ones(2, 5))
    torch.testing.assert_close(latents * x.norm(dim=1, keepdim=True), x)
    torch.testing.assert_close(bottleneck.decode(latents * 7), latents)
    assert torch.isfinite(bottleneck.encode(torch.zeros(1, 4, 2))).all()
