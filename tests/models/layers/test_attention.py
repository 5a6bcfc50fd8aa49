"""Attention: kernels, masks, windows, heads."""

import pytest
import torch
import torch.nn.functional as F

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.models.layers import attention as attention_module
from stable_audio_tools.models.layers import attention_backends
from stable_audio_tools.models.layers.attention import Attention, window_mask
from stable_audio_tools.models.layers.attention_backends import (
    attend,
    attend_in_window,
    attention_backend,
    narrow_window,
    use_attention_backend,
)
from stable_audio_tools.models.layers.embeddings import RotaryEmbedding


def qkv(lengths=(6, 6), heads=2, width=8):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(3, heads, length, width, generator=generator) for length in (lengths[0], lengths[1], lengths[1])]


def by_hand(q, k, v, mask=None):
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return scores.softmax(dim=-1) @ v


MASKS = {
    "all": (None, False),
    "causal": (None, True),
    "window": (window_mask(6, (2, 1), torch.device("cpu")), False),
    "per_item": (torch.rand(3, 1, 1, 6, generator=torch.Generator().manual_seed(0)) > 0.3, False),
}


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_attend_equals_the_formula(kind, dtype):
    mask, causal = MASKS[kind]
    q, k, v = (tensor.to(dtype) for tensor in qkv())
    expected = by_hand(q.float(), k.float(), v.float(), torch.ones(6, 6).tril().bool() if causal else mask)
    out = attend(q, k, v, mask=mask, is_causal=causal)
    assert out.dtype == dtype
    # Values are averages of unit variance; half precision rounds scores of about 1 and weights of about 1/6.
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}[dtype]
    torch.testing.assert_close(out.float(), expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize("kind", MASKS)
def test_explicit_products_equal_the_fused_kernel(kind, monkeypatch):
    """In bfloat16, short sequences take the one path and long ones the other: forward and backward agree."""
    mask, causal = MASKS[kind]
    results = []
    for limit in (attention_backends.MAX_EXPLICIT_SCORES, 0):
        monkeypatch.setattr(attention_backends, "MAX_EXPLICIT_SCORES", limit)
        inputs = [tensor.bfloat16().requires_grad_() for tensor in qkv()]
        out = attend(*inputs, mask=mask, is_causal=causal)
        results.append([out.detach(), *torch.autograd.grad(out.float().square().sum(), inputs)])
    for explicit, fused in zip(*results, strict=True):
        torch.testing.assert_close(explicit, fused, atol=2**-6 * float(fused.abs().max()), rtol=0)


@pytest.mark.parametrize("length", [1, 2, 5, 8])
@pytest.mark.parametrize("window", [(0, 0), (1, 2), (-1, 0), (3, -1), (-1, -1), (7, 7), (100, 1)])
def test_window_mask_against_brute_force(length, window):
    left, right = window
    expected = [
        [(left < 0 or query - key <= left) and (right < 0 or key - query <= right) for key in range(length)] for query in range(length)
    ]
    mask = window_mask(length, window, torch.device("cpu"))
    if mask is None:
        assert all(map(all, expected))
    else:
        assert mask.tolist() == expected


# ---- the module ---------------------------------------------------------------------------------------------------------------------


def make(*args, **kwargs) -> Attention:
    torch.manual_seed(0)
    return Attention(*args, zero_init_output=False, **kwargs)


def test_starts_at_zero_unless_told_otherwise():
    x = torch.randn(1, 4, 16)
    assert not Attention(16, 8)(x).any()
    assert make(16, 8)(x).any()


@pytest.mark.parametrize("qk_norm", ["none", "l2", "ln", "dyt"])
def test_qk_norms(qk_norm):
    layer = make(16, 8, qk_norm=qk_norm)
    x = torch.randn(2, 5, 16)
    louder = layer(x * 3) / 3
    if qk_norm in ("l2", "ln"):
        torch.testing.assert_close(louder, layer(x), atol=1e-5, rtol=0)  # the pattern does not depend on the level of the input
    else:
        assert not torch.allclose(louder, layer(x), atol=1e-3)
    assert {name for name in layer.state_dict() if "norm" in name} == {
        f"{side}_norm.{name}" for side in "qk" for name in {"ln": ("weight", "bias"), "dyt": ("alpha", "gamma", "beta")}.get(qk_norm, ())
    }


def test_self_attention_by_hand():
    layer = make(16, 8)
    x = torch.randn(2, 5, 16)
    q, k, v = (part.view(2, 5, 2, 8).transpose(1, 2) for part in layer.to_qkv(x).chunk(3, dim=-1))
    expected = layer.to_out(by_hand(q, k, v).transpose(1, 2).reshape(2, 5, 16))
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=0)


def test_self_attention_is_equivariant_to_permutation_without_positions():
    layer = make(16, 8)
    x, order = torch.randn(2, 5, 16), torch.tensor([3, 1, 4, 0, 2])
    torch.testing.assert_close(layer(x[:, order]), layer(x)[:, order], atol=1e-6, rtol=0)
    angles = RotaryEmbedding(8).forward_from_seq_len(5)
    assert not torch.allclose(layer(x[:, order], rotary_angles=angles), layer(x, rotary_angles=angles)[:, order], atol=1e-4)


def test_causal_output_does_not_depend_on_the_future():
    layer = make(16, 8, causal=True)
    x = torch.randn(2, 6, 16)
    changed = torch.cat([x[:, :4], torch.randn(2, 2, 16)], dim=1)
    torch.testing.assert_close(layer(changed)[:, :4], layer(x)[:, :4])
    assert not torch.allclose(layer(changed)[:, 4:], layer(x)[:, 4:])


@pytest.mark.parametrize("causal", [False, True])
def test_window_limits_what_a_position_sees(causal):
    layer = make(16, 8, causal=causal)
    x = torch.randn(1, 9, 16).requires_grad_()
    out = layer(x, sliding_window=[2, 1])
    for query in range(9):
        (grad,) = torch.autograd.grad(out[0, query].sum(), x, retain_graph=True)
        seen = grad[0].abs().sum(dim=-1).nonzero().flatten().tolist()
        assert seen == [key for key in range(9) if query - 2 <= key <= query + (0 if causal else 1)]


def test_window_is_a_matter_of_self_attention():
    layer = make(16, 8, 16)
    x, context = torch.randn(1, 9, 16), torch.randn(1, 4, 16)
    assert torch.equal(layer(x, context, sliding_window=[0, 0]), layer(x, context))


def test_grouped_heads_share_keys_and_values():
    """Four query heads on two context heads equal full attention whose context projections are repeated per head."""
    grouped, full = make(32, 8, 16), make(32, 8, 32)
    keys, values = (part.view(2, 8, 16).repeat_interleave(2, dim=0).reshape(32, 16) for part in grouped.to_kv.weight.chunk(2))
    full.load_state_dict({**grouped.state_dict(), "to_kv.weight": torch.zeros(64, 32)})
    with torch.no_grad():
        full.to_kv.weight[:, :16] = torch.cat([keys, values])
    x, context = torch.randn(2, 5, 32), torch.randn(2, 3, 16)
    torch.testing.assert_close(grouped(x, context), full(x, F.pad(context, (0, 16))), atol=1e-6, rtol=0)


@pytest.mark.parametrize("context_width", [None, 16])
def test_differential_is_the_difference_of_two_attentions(context_width):
    layer = make(16, 8, context_width, differential=True)
    x = torch.randn(2, 5, 16)
    context = torch.randn(2, 3, 16) if context_width else None
    first, second = make(16, 8, context_width), make(16, 8, context_width)
    with torch.no_grad():
        for plain in (first, second):
            plain.to_out.weight.copy_(layer.to_out.weight)
        if context_width:  # to_q: q, q_diff; to_kv: k, k_diff, v
            q, q_diff = layer.to_q.weight.chunk(2)
            k, k_diff, v = layer.to_kv.weight.chunk(3)
            for plain, query, key in ((first, q, k), (second, q_diff, k_diff)):
                plain.to_q.weight.copy_(query)
                plain.to_kv.weight.copy_(torch.cat([key, v]))
        else:  # q, k, v, q_diff, k_diff
            q, k, v, q_diff, k_diff = layer.to_qkv.weight.chunk(5)
            for plain, query, key in ((first, q, k), (second, q_diff, k_diff)):
                plain.to_qkv.weight.copy_(torch.cat([query, key, v]))
    torch.testing.assert_close(layer(x, context), first(x, context) - second(x, context), atol=1e-6, rtol=0)


def test_feat_scale_weighs_mean_and_rest():
    layer, plain = make(16, 8, feat_scale=True), make(16, 8)
    x = torch.randn(2, 5, 16)
    torch.testing.assert_close(layer(x), plain(x))
    with torch.no_grad():
        layer.lambda_dc.fill_(1)
        layer.lambda_hf.fill_(0.5)
    mean = plain(x).mean(dim=1, keepdim=True)
    torch.testing.assert_close(layer(x), 2 * mean + 1.5 * (plain(x) - mean), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("dim", "heads", "context"), [(20, 8, None), (16, 8, 12), (24, 8, 16), (16, 32, None)])
def test_impossible_widths(dim, heads, context):
    with pytest.raises(ConfigError, match=f"attention of width {dim} with {heads} features per head"):
        Attention(dim, heads, context)


# ---- narrow windows ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("left", "right"), [(0, 0), (3, 2), (17, 17), (0, 70), (40, 40)])
@pytest.mark.parametrize("length", [1, 63, 64, 65, 400])
def test_blocks_of_a_window_equal_the_mask(left, right, length):
    """Forward and backward, also where the last block is not full."""
    inputs = [tensor.requires_grad_() for tensor in qkv((length, length))]
    results = []
    for out in (
        attend_in_window(*inputs, left=left, right=right),
        attend(*inputs, mask=window_mask(length, (left, right), torch.device("cpu"))),
    ):
        results.append([out, *torch.autograd.grad(out.square().sum(), inputs)])
    for blocks, whole in zip(*results, strict=True):
        torch.testing.assert_close(blocks, whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("length", "window", "expected"),
    [(10_000, (17, 17), (17, 17)), (10_000, (17, -1), None), (100, (17, 17), None), (10_000, (3000, 3000), None)],
)
def test_blocks_are_for_windows_much_narrower_than_the_sequence(length, window, expected):
    assert narrow_window(length, window) == expected


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("options", [{}, {"differential": True}, {"qk_norm": "rms"}, {"dim_context": None}])
def test_long_sequences_equal_short_ones(causal, options, monkeypatch):
    """What the layer gives does not depend on how the window is computed."""
    torch.manual_seed(0)
    layer = Attention(32, 8, causal=causal, zero_init_output=False, **options)
    x, angles = torch.randn(2, 300, 32), RotaryEmbedding(4).forward_from_seq_len(300)
    in_blocks = layer(x, rotary_angles=angles, sliding_window=(5, 3))
    monkeypatch.setattr(attention_module, "narrow_window", lambda length, window: None)
    torch.testing.assert_close(layer(x, rotary_angles=angles, sliding_window=(5, 3)), in_blocks, atol=1e-5, rtol=1e-5)


def test_memory_grows_with_the_window_and_not_with_the_square_of_the_length():
    """A mask of 200,000 steps squared would be 40 GB."""
    q = torch.randn(1, 1, 200_000, 4)
    assert torch.isfinite(attend_in_window(q, q, q, left=2, right=2)).all()


@pytest.mark.parametrize(("qk_norm", "eps"), [("ln", 1e-6), ("rms", 1e-6), ("l2", 1e-12)])
def test_epsilon_of_query_and_key_norms(qk_norm, eps):
    assert Attention(16, 8, qk_norm=qk_norm).qk_norm_eps == eps
    assert Attention(16, 8, qk_norm=qk_norm, qk_norm_eps=1e-3).qk_norm_eps == 1e-3
    # Tiny queries and keys: with a large epsilon they stay tiny, so that all keys count alike.
    torch.manual_seed(0)
    layer = Attention(16, 8, qk_norm=qk_norm, qk_norm_eps=1e3, zero_init_output=False)
    x = torch.randn(1, 5, 16)
    expected = layer.to_out(layer.to_qkv(x)[..., 32:].mean(dim=1, keepdim=True)).expand(1, 5, 16)
    torch.testing.assert_close(layer(x), expected, atol=1e-3, rtol=0)


def test_the_way_to_compute_is_a_setting(monkeypatch):
    q, k, v = torch.randn(3, 2, 4, 20, 8).double().unbind()
    with use_attention_backend("fused"):
        fused, calls = attend(q, k, v), []
    real = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", lambda *args, **kw: calls.append(1) or real(*args, **kw))
    monkeypatch.setenv("SAT_ATTENTION_BACKEND", "explicit")
    torch.testing.assert_close(attend(q, k, v), fused, atol=1e-6, rtol=0)
    assert not calls and attention_backend() == "explicit"
    with use_attention_backend("fused"):  # the block wins over the variable
        attend(q, k, v)
    assert len(calls) == 1


def test_refuses_ways_that_there_are_not(monkeypatch):
    with (
        pytest.raises(ConfigError, match="attention backend must be one of auto, fused, explicit, got 'flash'"),
        use_attention_backend("flash"),
    ):
        pass
    monkeypatch.setenv("SAT_ATTENTION_BACKEND", "fast")
    with pytest.raises(ConfigError, match="SAT_ATTENTION_BACKEND must be one of auto, fused, explicit, got 'fast'"):
        attention_backend()
