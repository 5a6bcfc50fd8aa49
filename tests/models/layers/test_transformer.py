"""ContinuousTransformer and its blocks."""

import pytest
import torch

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.models.layers.attention import window_mask
from stable_audio_tools.models.layers.convnext import ConvNeXtBlock
from stable_audio_tools.models.layers.feedforward import GLU, ConformerModule, FeedForward
from stable_audio_tools.models.layers.norms import DynamicTanh, LayerNorm, RMSNorm
from stable_audio_tools.models.layers.transformer import ContinuousTransformer
from stable_audio_tools.models.layers.transformer_block import TransformerBlock


@pytest.fixture
def make(randomise):
    def build(**options):
        torch.manual_seed(0)
        return randomise(ContinuousTransformer(**{"dim": 32, "depth": 3, "dim_heads": 16, **options}))

    return build


X = torch.randn(2, 6, 32, generator=torch.Generator().manual_seed(5))


def test_starts_as_the_identity_and_projects_if_asked():
    assert torch.equal(ContinuousTransformer(dim=32, depth=2)(X), X)
    transformer = ContinuousTransformer(dim=16, depth=1, dim_in=32, dim_out=5)
    torch.testing.assert_close(transformer(X), transformer.project_out(transformer.project_in(X)))


def test_layer_scale_replaces_zero_init():
    transformer = ContinuousTransformer(dim=32, depth=1, layer_scale=True)
    difference = (transformer(X) - X).abs().max()
    assert 0 < difference < 1e-3


def test_memory_tokens_are_seen_and_removed(make):
    transformer = make(num_memory_tokens=4, dim_out=7)
    assert transformer(X).shape == (2, 6, 7)
    before = transformer(X)
    with torch.no_grad():
        transformer.memory_tokens.normal_()
    assert not torch.allclose(transformer(X), before, atol=1e-4)


def test_prepended_embeddings_stay_in_the_output(make):
    transformer = make()
    prepend = torch.randn(2, 3, 32)
    out = transformer(X, prepend_embeds=prepend)
    assert out.shape == (2, 9, 32)
    torch.testing.assert_close(out, transformer(torch.cat([prepend, X], dim=1)))


@pytest.mark.parametrize("memory", [0, 2])
def test_hidden_states_and_early_exit(make, memory):
    transformer = make(num_memory_tokens=memory, dim_out=5)
    out, info = transformer(X, return_info=True)
    assert len(info["hidden_states"]) == 3
    torch.testing.assert_close(transformer.project_out(info["hidden_states"][-1][:, memory:]), out)
    for index, hidden in enumerate(info["hidden_states"]):
        early, early_info = transformer(X, exit_layer_ix=index, return_info=True)
        assert torch.equal(early, hidden[:, memory:]) and len(early_info["hidden_states"]) == index + 1
        assert torch.equal(transformer(X, exit_layer_ix=index), early)


@pytest.mark.parametrize("window", [[1, 1], [2, 0]])
def test_sliding_window_reaches_as_far_as_the_blocks_together(make, window):
    transformer = make(depth=2, sliding_window=window)
    x = torch.randn(1, 12, 32).requires_grad_()
    out = transformer(x)
    mask = window_mask(12, window, torch.device("cpu")).float()
    reach = (mask @ mask) > 0  # two blocks
    for query in range(12):
        (grad,) = torch.autograd.grad(out[0, query].sum(), x, retain_graph=True)
        assert (grad[0].abs().sum(dim=-1) > 0).tolist() == reach[query].tolist()


def test_window_without_limits_changes_nothing(make):
    torch.testing.assert_close(make(sliding_window=[-1, -1])(X), make()(X))


def test_a_transformer_with_relative_positions_only_is_shift_invariant(make):
    """With rotary positions and a window, what lies outside of the window does not matter, nor where the sequence begins."""
    transformer = make(depth=1, sliding_window=[2, 2])
    long = torch.randn(1, 20, 32)
    part = long[:, 5:15]
    torch.testing.assert_close(transformer(part)[:, 2:-2], transformer(long)[:, 7:13], atol=1e-5, rtol=0)


@pytest.mark.parametrize("option", [{"rotary_pos_emb": False}, {"use_sinusoidal_emb": True}, {"use_abs_pos_emb": True}])
def test_position_embeddings_make_order_matter(make, option):
    transformer = make(**{"rotary_pos_emb": False, "abs_pos_emb_max_length": 8, **option})
    swapped = transformer(X.flip(1)).flip(1)
    assert torch.allclose(swapped, transformer(X), atol=1e-5) is (option == {"rotary_pos_emb": False})


@pytest.mark.parametrize("dim_heads", [2, 4, 8, 16, 32, 64])
def test_rotary_embeddings_work_for_narrow_heads_too(dim_heads):
    transformer = ContinuousTransformer(dim=64, depth=1, dim_heads=dim_heads)
    assert transformer(torch.randn(1, 5, 64)).shape == (1, 5, 64)
    if dim_heads >= 32:
        assert transformer.rotary_pos_emb.inv_freq.shape == (max(dim_heads // 2, 32) // 2,)  # published keys


OPTIONS = {
    "plain": {},
    "conformer": {"conformer": True},
    "no_norms": {"remove_norms": True},
    "rms": {"norm_type": "rms_norm", "norm_kwargs": {"eps": 1e-3, "force_fp32": True}, "attn_kwargs": {"qk_norm": "rms"}},
    "dyt": {"norm_type": "dyt", "attn_kwargs": {"qk_norm": "dyt"}},
    "sinusoidal": {"ff_kwargs": {"sinusoidal": True}},
    "layer_scale": {"layer_scale": True},
    "kwargs": {"attn_kwargs": {"qk_norm": "ln"}, "ff_kwargs": {"mult": 2, "no_bias": True}, "norm_kwargs": {"eps": 1e-2}},
    "cross": {"cross_attend": True, "cond_token_dim": 16},
    "global": {"global_cond_dim": 8},
    "rope": {"add_rope": True, "rotary_pos_emb": False},
}


def inputs_of(options):
    generator = torch.Generator().manual_seed(2)
    return {
        "context": torch.randn(2, 4, 16, generator=generator) if "cross_attend" in options else None,
        "global_cond": torch.randn(2, 8, generator=generator) if "global_cond_dim" in options else None,
    }


@pytest.mark.parametrize("name", OPTIONS)
def test_gradient_checkpointing_changes_nothing(make, name):
    results = []
    for checkpointing in (False, True):
        transformer = make(**OPTIONS[name]).train()
        transformer.gradient_checkpointing = checkpointing
        x = X.clone().requires_grad_()
        out = transformer(x, **inputs_of(OPTIONS[name]))
        out.square().mean().backward()
        results.append([out.detach(), x.grad, *(p.grad for p in transformer.parameters() if p.grad is not None)])
    assert len(results[0]) == len(results[1]) > 5
    for plain, recomputed in zip(*results, strict=True):
        assert torch.equal(plain, recomputed)


@pytest.mark.parametrize("name", OPTIONS)
def test_items_of_a_batch_do_not_mix(make, name):
    transformer = make(**OPTIONS[name])
    inputs = inputs_of(OPTIONS[name])
    second = {key: value[1:] if value is not None else None for key, value in inputs.items()}
    torch.testing.assert_close(transformer(X, **inputs)[1:], transformer(X[1:], **second), atol=1e-3, rtol=0)


def test_causal_transformer_does_not_see_the_future(make):
    transformer = make(causal=True)
    changed = torch.cat([X[:, :4], torch.randn(2, 2, 32)], dim=1)
    torch.testing.assert_close(transformer(changed)[:, :4], transformer(X)[:, :4], atol=1e-3, rtol=0)


def test_cross_attention_ends_at_the_block_asked_for():
    transformer = ContinuousTransformer(dim=32, depth=3, cross_attend=True, cond_token_dim=16, dim_heads=16, final_cross_attn_ix=0)
    assert [layer.cross_attend for layer in transformer.layers] == [True, False, False]
    assert not [name for name in transformer.state_dict() if name.startswith(("layers.1.cross", "layers.2.cross"))]


def test_global_condition_modulates_by_the_published_formula(randomise):
    block = randomise(TransformerBlock(32, 16, global_cond_dim=8))
    g = torch.randn(2, 6 * 32)
    scale_a, shift_a, gate_a, scale_f, shift_f, gate_f = (block.to_scale_shift_gate + g)[:, None].chunk(6, dim=-1)
    x = X + block.self_attn(block.pre_norm(X) * (1 + scale_a) + shift_a) * torch.sigmoid(1 - gate_a)
    expected = x + block.ff(block.ff_norm(x) * (1 + scale_f) + shift_f) * torch.sigmoid(1 - gate_f)
    torch.testing.assert_close(block(X, global_cond=g), expected)
    x = X + block.self_attn(block.pre_norm(X))  # without a condition: not modulated
    torch.testing.assert_close(block(X), x + block.ff(block.ff_norm(x)))


# ---- feed-forward and ConvNeXt ------------------------------------------------------------------------------------------------------


def test_glu_keys_and_formula():
    glu = GLU(4, 6)
    x, gate = glu.proj(X[..., :4]).chunk(2, dim=-1)
    torch.testing.assert_close(glu(X[..., :4]), x * torch.nn.functional.silu(gate))


def test_a_gate_that_is_a_sine():
    glu = GLU(4, 6, sinusoidal=True)
    x, gate = glu.proj(X[..., :4]).chunk(2, dim=-1)
    torch.testing.assert_close(glu(X[..., :4]), x * (torch.pi * gate).sin())
    assert set(glu.state_dict()) == set(GLU(4, 6).state_dict())


@pytest.mark.parametrize(
    ("options", "kind", "slope"),
    [
        ({}, LayerNorm, None),
        ({"norm_type": "rms_norm", "norm_kwargs": {"bias": False}}, RMSNorm, None),
        ({"norm_type": "dyt"}, DynamicTanh, 4.0),
        ({"remove_norms": True}, DynamicTanh, 10.0),
    ],
)
def test_norms_of_the_branches(options, kind, slope):
    block = TransformerBlock(32, 8, cross_attend=True, conformer=True, **options)
    for norm in (block.pre_norm, block.cross_attend_norm, block.ff_norm):
        assert isinstance(norm, kind)
        assert slope is None or norm.alpha == slope
    assert isinstance(block.conformer.in_norm, LayerNorm)  # whatever the others are


def test_a_norm_without_bias_cannot_have_one():
    with pytest.raises(ConfigError, match=r'norm_kwargs\.bias: an "rms_norm" has no bias'):
        TransformerBlock(32, 8, norm_type="rms_norm", norm_kwargs={"bias": True})


@pytest.mark.parametrize("glu", [True, False])
@pytest.mark.parametrize("use_conv", [True, False])
@pytest.mark.parametrize("no_bias", [True, False])
def test_feed_forward_shapes_and_biases(glu, use_conv, no_bias):
    layer = FeedForward(32, mult=1.5, glu=glu, use_conv=use_conv, no_bias=no_bias, dim_out=10)
    assert layer(X).shape == (2, 6, 10) and not layer(X).any()
    first = "ff.0.proj" if glu else "ff.0.1"
    assert set(layer.state_dict()) == {f"{first}.weight", "ff.2.weight"} | (set() if no_bias else {"ff.2.bias"}) | (
        {f"{first}.bias"} if glu or not no_bias else set()  # published weights have it
    )


def test_convolutional_feed_forward_sees_its_neighbours_only():
    layer = FeedForward(4, glu=False, use_conv=True, zero_init_output=False)
    x = torch.randn(1, 9, 4).requires_grad_()
    (grad,) = torch.autograd.grad(layer(x)[0, 4].sum(), x)
    assert grad[0].abs().sum(dim=-1).nonzero().flatten().tolist() == [2, 3, 4, 5, 6]


def test_conformer_keys_and_reach():
    module = ConformerModule(4)
    assert {name for name in module.state_dict() if "norm" not in name} == {
        "pointwise_conv.weight", "glu.proj.weight", "glu.proj.bias", "depthwise_conv.weight", "pointwise_conv_2.weight",
    }  # fmt: skip
    x = torch.randn(1, 30, 4).requires_grad_()
    (grad,) = torch.autograd.grad(module(x)[0, 15].sum(), x)
    assert grad[0].abs().sum(dim=-1).nonzero().flatten().tolist() == list(range(7, 24))


def test_convnext_is_a_residual_branch_of_seven_frames():
    block = ConvNeXtBlock(6)
    x = torch.randn(2, 6, 20).requires_grad_()
    assert block(x).shape == x.shape
    assert 0 < (block(x) - x).abs().max() < 1
    with torch.no_grad():
        block.scale.zero_()
    assert torch.equal(block(x), x)
    with torch.no_grad():
        block.scale.fill_(1)
    (grad,) = torch.autograd.grad((block(x) - x)[0, :, 10].sum(), x)
    assert grad[0].abs().sum(dim=0).nonzero().flatten().tolist() == list(range(7, 14))
    torch.testing.assert_close(block(x[1:]), block(x)[1:])
