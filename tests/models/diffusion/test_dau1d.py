"""The Dance Diffusion U-Net: resampling, attention layouts, conditions, lengths."""

import logging

import pytest
import torch
import torch.nn.functional as F

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.models import blocks
from stable_audio_tools.models.diffusion.dau1d import (
    CUBIC,
    DAU1DCondWrapper,
    DiffusionAttnUnet1D,
    Downsample1d,
    Downsample1d_2,
    SelfAttention1d,
    Upsample1d,
    Upsample1d_2,
)

SMALL = {"io_channels": 2, "depth": 3, "n_attn_layers": 1, "channels": [32, 32, 64], "strides": [2, 2]}


def build(**options):
    torch.manual_seed(0)
    return DiffusionAttnUnet1D(**(SMALL | options)).eval()


def randn(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ---- resampling ----------------------------------------------------------------------------------------------------------------------


def test_fixed_resampling_keeps_constants_and_slow_tones():
    time = torch.arange(256.0)
    x = torch.stack([torch.ones(256), torch.cos(0.05 * time)])[None]
    down = Downsample1d()(x)
    assert down.shape == (1, 2, 128)
    middle = torch.cos(0.05 * (2 * torch.arange(128.0) + 0.5))
    torch.testing.assert_close(down[0, 0], torch.full((128,), sum(CUBIC)), atol=1e-6, rtol=0)
    torch.testing.assert_close(down[0, 1, 2:-2], middle[2:-2], atol=1e-3, rtol=0)
    up = Upsample1d()(down)
    assert up.shape == x.shape
    torch.testing.assert_close(up[..., 8:-8], x[..., 8:-8], atol=2e-3, rtol=0)


def test_channels_are_resampled_one_by_one():
    x = randn(2, 3, 32)
    for layer in (Downsample1d(), Upsample1d()):
        torch.testing.assert_close(layer(x)[:, 1:2], layer(x[:, 1:2]))


@pytest.mark.parametrize("factor", [1, 2, 3, 4, 5, 8])
def test_learned_resampling_changes_lengths_by_its_factor(factor):
    x = randn(1, 4, 8 * factor)
    down = Downsample1d_2(4, 6, factor)(x)
    assert down.shape == (1, 6, 8)
    assert Upsample1d_2(6, 4, factor)(down).shape == x.shape


# ---- attention -----------------------------------------------------------------------------------------------------------------------


def explicit_attention(layer, x, *, scrambled):
    batch, width, length = x.shape
    q, k, v = layer.qkv_proj(layer.norm(x)).view(batch, 3, layer.n_head, width // layer.n_head, length).unbind(1)  # (B, H, E, L)
    scores = torch.einsum("bhel,bhes->bhls", q, k) * (width // layer.n_head) ** -0.5
    out = torch.einsum("bhls,bhes->bhle", scores.softmax(-1), v)
    out = out.contiguous().view(x.shape) if scrambled else out.transpose(2, 3).reshape(x.shape)
    return x + layer.out_proj(out)


@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("layout", ["cpu", "gpu"])
def test_attention_is_what_its_layout_says(heads, layout):
    torch.manual_seed(0)
    layer = SelfAttention1d(8, heads, layout)
    x = randn(2, 8, 12)
    torch.testing.assert_close(layer(x), explicit_attention(layer, x, scrambled=layout == "gpu"), atol=1e-5, rtol=1e-5)


def test_layouts_differ_in_attention_alone():
    x, t = randn(2, 2, 32), torch.tensor([0.3, 0.8])
    usual, published = build(), build(attention_layout="gpu")
    published.load_state_dict(usual.state_dict(), strict=True)
    assert not torch.allclose(usual(x, t), published(x, t), atol=1e-4)
    without = [build(n_attn_layers=0, attention_layout=layout)(x, t) for layout in ("cpu", "gpu")]
    assert torch.equal(*without)


@pytest.mark.parametrize(("n_attn_layers", "levels"), [(0, 0), (1, 2), (2, 2)])
def test_which_levels_have_attention(n_attn_layers, levels):
    """Six attention layers per level; the outermost never has any."""
    found = [module for module in build(n_attn_layers=n_attn_layers).modules() if isinstance(module, SelfAttention1d)]
    assert len(found) == 6 * levels


# ---- the whole network ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{}, {"learned_resample": True, "strides": [4, 3]}, {"use_snake": True}, {"conv_bias": False}, {"depth": 1}]
)
def test_shapes_and_dependence(options):
    model = build(**options)
    length = 4 * model.length_multiple if options.get("depth") != 1 else 5
    x = randn(2, 2, length)
    out = model(x, torch.tensor([0.3, 0.8]))
    assert out.shape == x.shape
    assert not torch.allclose(out, model(x, torch.tensor([0.4, 0.8])))  # of the time
    torch.testing.assert_close(out[1:], model(x[1:], torch.tensor([0.8])), atol=1e-5, rtol=1e-4)  # not of other items


@pytest.mark.parametrize(
    ("options", "multiple"),
    [
        ({}, 4),
        ({"learned_resample": True, "strides": [4, 3]}, 12),
        ({"strides": [2, 2, 8]}, 4),
        ({"strides": [1, 2]}, 2),
        ({"depth": 1}, 1),
    ],
)
def test_length_multiple(options, multiple):
    assert build(**options).length_multiple == multiple


def test_the_default_is_the_published_size():
    with torch.device("meta"):
        model = DiffusionAttnUnet1D()
    assert model.length_multiple == 2**13 and model.io_channels == 2


def test_snake_keys():
    keys = set(build(use_snake=True).state_dict())
    assert {"net.0.main.2.alpha", "net.0.main.5.alpha"} <= keys and "net.6.main.5.alpha" not in keys


def test_conditions_are_stretched_and_heard():
    model = build(cond_dim=3)
    x, t, cond = randn(1, 2, 32), torch.tensor([0.5]), randn(1, 3, 8)
    stretched = F.interpolate(cond, 32, mode="linear", align_corners=False)
    torch.testing.assert_close(model(x, t, cond), model(x, t, stretched))
    assert not torch.allclose(model(x, t, cond), model(x, t, -cond))


def test_noise_on_the_condition_is_told():
    model = build(cond_dim=3, cond_noise_aug=True)
    assert model.net[0].main[0].in_channels == 2 + 3 + 32
    x, t, cond = randn(1, 2, 32), torch.tensor([0.5]), randn(1, 3, 32)
    exact = model(x, t, cond, cond_aug_scale=torch.zeros(1))
    assert torch.equal(exact, model(x, t, cond, cond_aug_scale=torch.zeros(1)))
    assert not torch.allclose(model(x, t, cond), model(x, t, cond))  # other noise, other levels


def test_the_conditional_one_is_a_quarter_of_its_parts():
    torch.manual_seed(0)
    inner = DiffusionAttnUnet1D(**SMALL, cond_dim=3)
    torch.manual_seed(0)
    wrapped = DAU1DCondWrapper(**SMALL, cond_dim=3).model
    for (name, a), b in zip(inner.named_parameters(), wrapped.parameters(), strict=True):
        assert torch.equal(a / 2, b), name
    torch.manual_seed(0)
    weights = torch.nn.GroupNorm(1, 32).weight
    assert torch.equal(wrapped.net[0].main[1].weight, weights / 4)


def test_the_wrapper_takes_what_any_backbone_is_given_and_refuses_the_rest():
    model = DAU1DCondWrapper(**SMALL, cond_dim=3).eval()
    x, t, cond = randn(1, 2, 32), torch.tensor([0.5]), randn(1, 3, 8)
    options = {"cfg_scale": 3.0, "batch_cfg": True, "rescale_cfg": True, "global_cond": None, "mask": None, "cross_attn_mask": None}
    assert torch.equal(model(x, t, input_concat_cond=cond, **options), model.model(x, t, cond))
    with pytest.raises(ConfigError, match="backbone 'DAU1d' does not take global_cond"):
        model(x, t, input_concat_cond=cond, global_cond=torch.zeros(1, 2))


def test_kept_names_of_blocks():
    assert blocks.SelfAttention1d is SelfAttention1d and blocks.FourierFeatures(1, 16)(torch.zeros(1, 1)).shape == (1, 16)
    assert blocks.expand_to_planes(torch.ones(2, 3), (2, 5, 7)).shape == (2, 3, 7)


# ---- mistakes ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": [32, 32]}, "depth 3 needs at least 3 channels and 2 strides, got 2 and 2"),
        ({"strides": [2]}, "depth 3 needs at least 3 channels and 2 strides, got 3 and 1"),
        ({"depth": 0}, "depth 0 needs at least 0 channels"),
        ({"kernel_size": 4}, "kernel_size must be odd, got 4"),
        ({"channels": [32, 32, 97]}, "attention of 97 channels cannot be divided among 3 heads"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(ConfigError, match=message):
        build(**options)


def test_strides_that_the_fixed_filter_does_not_have_are_told(caplog):
    with caplog.at_level(logging.WARNING):
        model = build(strides=[4, 2])
    assert "without learned_resample every level is resampled by 2; strides [4, 2] are not" in caplog.text
    assert model.length_multiple == 4 and model(randn(1, 2, 16), torch.tensor([0.5])).shape == (1, 2, 16)
