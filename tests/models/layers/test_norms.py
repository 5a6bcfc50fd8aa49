"""Layer norm, dynamic tanh, layer scale."""

import pytest
import torch

from stable_audio_tools.models.layers.norms import DynamicTanh, LayerNorm, LayerScale, RMSNorm


def test_layer_norm_standardises_the_last_dimension():
    x = torch.randn(2, 5, 64) * 3 + 7
    y = LayerNorm(64)(x)
    torch.testing.assert_close(y.mean(dim=-1), torch.zeros(2, 5), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.var(dim=-1, unbiased=False), torch.ones(2, 5), atol=1e-4, rtol=0)
    torch.testing.assert_close(LayerNorm(64)(5 * x + 2), y, atol=1e-4, rtol=0)


def test_layer_norm_equals_torch_with_the_same_weights():
    ours, theirs = LayerNorm(8, bias=True, eps=1e-3), torch.nn.LayerNorm(8, eps=1e-3)
    with torch.no_grad():
        ours.gamma.normal_()
        ours.beta.normal_()
        theirs.weight.copy_(ours.gamma)
        theirs.bias.copy_(ours.beta)
    x = torch.randn(3, 8) * 0.01
    assert torch.equal(ours(x), theirs(x))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("fix_scale", [False, True])
def test_both_tensors_are_always_saved_and_train_only_if_asked(bias, fix_scale):
    norm = LayerNorm(4, bias=bias, fix_scale=fix_scale)
    assert set(norm.state_dict()) == {"gamma", "beta"}
    trained = {name for name, _ in norm.named_parameters()}
    assert ("beta" in trained) is bias and ("gamma" in trained) is not fix_scale


def test_force_fp32_is_more_exact_in_half_precision():
    x = (torch.randn(4, 512, generator=torch.Generator().manual_seed(0)) * 0.01 + 30).bfloat16()
    exact = LayerNorm(512)(x.float())
    forced = LayerNorm(512, force_fp32=True).bfloat16()(x)
    assert forced.dtype == torch.bfloat16
    assert (forced.float() - exact).abs().max() <= 2**-8 * exact.abs().max()


def test_dynamic_tanh():
    norm = DynamicTanh(3)
    assert {name: tuple(p.shape) for name, p in norm.named_parameters()} == {"alpha": (1,), "gamma": (3,), "beta": (3,)}
    x = torch.randn(2, 3)
    torch.testing.assert_close(norm(x), torch.tanh(10 * x))
    with torch.no_grad():
        norm.alpha.fill_(0.5)
        norm.gamma.fill_(2)
        norm.beta.fill_(1)
    torch.testing.assert_close(norm(x), 2 * torch.tanh(x / 2) + 1)


def test_layer_scale_starts_near_zero():
    scale = LayerScale(3)
    torch.testing.assert_close(scale(torch.ones(2, 3)), torch.full((2, 3), 1e-5))
    assert set(scale.state_dict()) == {"scale"}


@pytest.mark.parametrize("fix_scale", [False, True])
@pytest.mark.parametrize("force_fp32", [False, True])
def test_rms_norm(fix_scale, force_fp32):
    norm = RMSNorm(8, fix_scale=fix_scale, force_fp32=force_fp32, eps=1e-3)
    assert list(norm.state_dict()) == ["gamma"] and len(list(norm.parameters())) == (0 if fix_scale else 1)
    with torch.no_grad():
        norm.gamma.normal_()
    x = torch.randn(3, 8)
    expected = x / (x.square().mean(dim=-1, keepdim=True) + 1e-3).sqrt() * norm.gamma
    torch.testing.assert_close(norm(x), expected)
    half = norm(x.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), expected, atol=5e-2, rtol=2e-2)
