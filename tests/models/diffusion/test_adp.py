"""The ADP U-Nets: convolutions that keep lengths, skip connections, guidance, conditions."""

import pytest
import torch
import torch.nn.functional as F

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.models.diffusion.adp import UNet1d, UNet1DCondWrapper, UNet1DUncondWrapper, UNetCFG1d, UNetCFG1DWrapper
from stable_audio_tools.models.diffusion.adp.attention import Attention, AttentionShape
from stable_audio_tools.models.diffusion.adp.blocks import Conv1d, Patcher, Unpatcher, downsample, upsample
from stable_audio_tools.models.diffusion.adp.stft import STFT
from stable_audio_tools.sampling.guidance import guide

SMALL = {
    "in_channels": 2, "channels": 16, "resnet_groups": 4, "multipliers": [1, 2, 2], "factors": [2, 2], "num_blocks": [1, 2],
    "attentions": [0, 1, 1], "attention_heads": 2, "attention_multiplier": 2,
}  # fmt: skip
CFG = {**SMALL, "context_embedding_features": 6, "context_embedding_max_length": 5}
T2 = torch.tensor([0.3, 0.8])


def randn(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def build(kind, **options):
    torch.manual_seed(0)
    return kind(**options).eval()


# ---- blocks --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", [1, 3, 5, 8])
@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize("length", [8, 9, 11])
def test_convolutions_give_one_frame_per_stride(kernel, stride, length):
    if kernel >= stride:
        assert Conv1d(2, 3, kernel, stride=stride)(randn(1, 2, length)).shape == (1, 3, -(-length // stride))


def test_an_odd_convolution_is_the_centred_one():
    torch.manual_seed(0)
    layer, x = Conv1d(2, 3, 5), randn(1, 2, 9)
    torch.testing.assert_close(layer(x), F.conv1d(x, layer.weight, layer.bias, padding=2))


@pytest.mark.parametrize("nearest", [False, True])
@pytest.mark.parametrize("factor", [1, 2, 3, 4])
def test_resampling_changes_lengths_by_its_factor(factor, nearest):
    x = randn(1, 4, 12)
    down = downsample(4, 6, factor, 2)(x)
    assert down.shape == (1, 6, 12 // factor)
    assert upsample(6, 4, factor, nearest=nearest)(down).shape == x.shape


def test_patches_are_undone_in_shape():
    x = randn(1, 2, 12)
    patches = Patcher(2, 8, 4, None)(x, None)
    assert patches.shape == (1, 8, 3) and Unpatcher(8, 2, 4, None)(patches, None).shape == x.shape


@pytest.mark.parametrize(("heads", "features", "expected"), [(2, None, (2, 8)), (None, 4, (4, 4)), (3, 5, (3, 5))])
def test_heads_and_features_follow_from_each_other(heads, features, expected):
    assert AttentionShape(heads, features, 2).resolved(16) == expected


def test_masked_context_is_zeroed_not_left_out():
    """As published models were trained: a masked position has zero keys and values, and takes its share of attention."""
    torch.manual_seed(0)
    layer = Attention(8, AttentionShape(2, None, 2), 6)
    x, context, mask = randn(1, 4, 8), randn(1, 3, 6), torch.tensor([[1.0, 0.0, 1.0]])
    changed = context.clone()
    changed[:, 1] = randn(1, 6, seed=9)

    def attended(context, mask=None):
        return layer(x, layer.keys_values(context, mask))

    torch.testing.assert_close(attended(context, mask), attended(changed, mask))
    assert not torch.allclose(attended(context, mask), attended(context[:, ::2]))
    assert torch.equal(attended(context, torch.ones(1, 3)), attended(context))


# ---- UNet1d --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_nearest_upsample": True},
        {"use_skip_scale": False},
        {"use_context_time": False},
        {"patch_size": 4},
        {"factors": [1, 4]},
        {"out_channels": 3},
        {"attentions": [0, 0], "attention_heads": None},
        {"attentions": [2, 0, 3], "attention_heads": None, "attention_features": 8, "channels": 32},
        {"kernel_multiplier_downsample": 4},
    ],
)
def test_shapes_and_items(options):
    model = build(UNet1d, **(SMALL | options))
    x = randn(2, 2, 2 * model.length_multiple)
    out = model(x, T2)
    assert out.shape == (2, options.get("out_channels", 2), x.shape[-1])
    torch.testing.assert_close(out[1:], model(x[1:], T2[1:]), atol=1e-5, rtol=1e-4)
    depends = not torch.allclose(out, model(x, T2 + 0.1))
    assert depends == options.get("use_context_time", True)


@pytest.mark.parametrize(("options", "multiple"), [({}, 4), ({"patch_size": 4}, 16), ({"factors": [1, 3]}, 3)])
def test_length_multiple(options, multiple):
    for kind in (UNet1DUncondWrapper, UNet1DCondWrapper):
        assert build(kind, **(SMALL | options)).length_multiple == multiple


def test_there_is_a_block_for_every_skip_connection():
    model = build(UNet1d, **SMALL)
    assert [len(level.blocks) for level in model.downsamples] == [1, 2]
    assert [len(level.blocks) for level in model.upsamples] == [3, 1]  # deepest first; one more where there is attention


def test_global_condition():
    model = build(UNet1d, **SMALL, context_features=5)
    x, features = randn(2, 2, 8), randn(2, 5)
    assert not torch.allclose(model(x, T2, features=features), model(x, T2, features=-features))
    with pytest.raises(ConfigError, match="needs a global condition"):
        model(x, T2)
    with pytest.raises(ConfigError, match="takes no global condition"):
        build(UNet1d, **SMALL)(x, T2, features=features)


def test_concatenated_conditions_by_level():
    model = build(UNet1d, **SMALL, context_channels=[3, 0, 4])
    x = randn(2, 2, 8)
    given = [randn(2, 3, 8), randn(2, 4, 2)]
    out = model(x, T2, channels_list=given)
    for index in range(2):
        changed = [-tensor if i == index else tensor for i, tensor in enumerate(given)]
        assert not torch.allclose(out, model(x, T2, channels_list=changed))
    with pytest.raises(ConfigError, match=r"context_channels are \[3, 4\], so as many are concatenated, got \[3\]"):
        model(x, T2, channels_list=given[:1])


def test_cross_attention():
    model = build(UNet1d, **SMALL, context_embedding_features=6)
    x, embedding = randn(2, 2, 8), randn(2, 3, 6)
    assert not torch.allclose(model(x, T2, embedding=embedding), model(x, T2, embedding=-embedding))
    with pytest.raises(ConfigError, match="needs an embedding to attend to"):
        model(x, T2)


@pytest.mark.parametrize("use_complex", [False, True])
def test_the_stft_is_undone_exactly(use_complex):
    stft = STFT(63, 16, use_complex=use_complex)
    audio = randn(2, 3, 160)
    frames = stft.encode(audio)
    assert frames.shape == (2, 3 * 64, 10)
    torch.testing.assert_close(stft.decode(frames, 160), audio, atol=1e-5, rtol=0)
    torch.testing.assert_close(stft.encode(audio[1:, 2:])[:, :32], frames[1:, 64:96])  # first halves of all channels come first


@pytest.mark.parametrize("use_stft_context", [False, True])
def test_a_network_on_the_spectrum(use_stft_context):
    options = {"use_stft": True, "stft_num_fft": 31, "stft_hop_length": 8, "use_stft_context": use_stft_context, "context_channels": [3]}
    model = build(UNet1d, **(SMALL | options))
    assert model.length_multiple == 32 and "stft.window" in model.state_dict()
    x, given = randn(2, 2, 96), randn(2, 3, 96 if use_stft_context else 12)
    out = model(x, T2, channels_list=[given])
    assert out.shape == x.shape and out.isfinite().all()
    assert not torch.allclose(out, model(x, T2, channels_list=[-given]))
    with pytest.raises(ConfigError, match="U-Net with use_stft needs an odd stft_num_fft, got 32"):
        build(UNet1d, **(SMALL | options | {"stft_num_fft": 32}))


# ---- UNetCFG1d -----------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def guided():
    return build(UNetCFG1d, **CFG)


X, E, MASK = randn(2, 2, 8), randn(2, 3, 6, seed=2), torch.tensor([[1, 1, 0], [1, 1, 1]])


def test_guidance_is_two_passes(guided):
    fixed = guided.fixed_embedding(E)
    conditional, unconditional = (guided(X, T2, embedding=item, embedding_mask=MASK) for item in (E, fixed))
    torch.testing.assert_close(
        guided(X, T2, embedding=E, embedding_mask=MASK, embedding_scale=3.0), guide(conditional, unconditional, 3.0), atol=1e-5, rtol=1e-4
    )
    torch.testing.assert_close(
        guided(X, T2, embedding=E, embedding_mask=MASK, embedding_scale=3.0, rescale_cfg=True, scale_phi=0.7),
        guide(conditional, unconditional, 3.0, rescale_phi=0.7), atol=1e-5, rtol=1e-4,
    )  # fmt: skip


def test_negative_conditions_are_padded_with_the_learned_one(guided):
    negative = randn(2, 3, 6, seed=3)
    padded = torch.where(MASK.bool()[..., None], negative, guided.fixed_embedding(E))
    out = guided(X, T2, embedding=E, embedding_scale=3.0, negative_embedding=negative, negative_embedding_mask=MASK)
    expected = guide(guided(X, T2, embedding=E), guided(X, T2, embedding=padded), 3.0)
    torch.testing.assert_close(out, expected, atol=1e-4, rtol=1e-3)


def test_dropped_conditions_are_the_learned_one(guided):
    fixed = guided(X, T2, embedding=guided.fixed_embedding(E))
    torch.testing.assert_close(guided(X, T2, embedding=E, embedding_mask_proba=1.0), fixed)
    seen = set()
    for seed in range(20):
        torch.manual_seed(seed)
        out = guided(X, T2, embedding=E, embedding_mask_proba=0.5)
        is_dropped = [torch.allclose(out[i], fixed[i], atol=1e-5) for i in range(2)]
        assert all(d or torch.allclose(out[i], guided(X, T2, embedding=E)[i], atol=1e-5) for i, d in enumerate(is_dropped))
        seen.add(tuple(is_dropped))
    assert len(seen) == 4  # item by item
    state = torch.get_rng_state()
    guided(X, T2, embedding=E)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_time_as_a_token():
    model = build(UNetCFG1d, **(CFG | {"use_xattn_time": True, "use_context_time": False}))
    assert model.fixed_embedding.embedding.weight.shape == (6, 6)
    out = model(X, T2, embedding=E, embedding_mask=MASK, embedding_scale=2.0, negative_embedding=-E, negative_embedding_mask=MASK)
    assert out.shape == X.shape and not torch.allclose(model(X, T2, embedding=E), model(X, T2 + 0.1, embedding=E))


def test_too_many_tokens(guided):
    with pytest.raises(ConfigError, match="condition of 6 tokens, but context_embedding_max_length is 5"):
        guided(X, T2, embedding=randn(2, 6, 6))


# ---- wrappers ------------------------------------------------------------------------------------------------------------------------


def test_the_conditional_ones_start_at_half_weight():
    inner, wrapped = build(UNet1d, **SMALL), build(UNet1DCondWrapper, **SMALL).model
    assert all(torch.equal(a / 2, b) for a, b in zip(inner.parameters(), wrapped.parameters(), strict=True))
    unconditional = build(UNet1DUncondWrapper, **SMALL)
    assert all(torch.equal(a, b) for a, b in zip(inner.parameters(), unconditional.model.parameters(), strict=True))
    assert unconditional.io_channels == 2


def test_names_of_conditions():
    model = build(UNetCFG1DWrapper, **CFG, context_features=4, context_channels=[3])
    concat, features = randn(2, 3, 4), randn(2, 4)
    out = model(
        X, T2, cross_attn_cond=E, cross_attn_mask=MASK, global_cond=features, input_concat_cond=concat, cfg_scale=2.0, rescale_cfg=True
    )
    expected = model.model(
        X, T2, embedding=E, embedding_mask=MASK, features=features, channels_list=[concat.repeat_interleave(2, dim=-1)],
        embedding_scale=2.0, rescale_cfg=True, scale_phi=0.4,
    )  # fmt: skip
    torch.testing.assert_close(out, expected)
    plain = build(UNet1DCondWrapper, **SMALL, context_features=4, context_channels=[3])
    options = {"cfg_scale": 3.0, "batch_cfg": True, "rescale_cfg": True, "cross_attn_cond": None, "prepend_cond": None, "mask": MASK}
    out = plain(X, T2, global_cond=features, input_concat_cond=concat, **options)
    torch.testing.assert_close(out, plain.model(X, T2, features=features, channels_list=[concat.repeat_interleave(2, dim=-1)]))


def test_half_precision_weights_decide_the_type():
    model = build(UNetCFG1DWrapper, **CFG).bfloat16()
    assert model(X, T2, cross_attn_cond=E, cross_attn_mask=MASK, cfg_scale=2.0).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs a cross-attention condition"),
        ({"cross_attn_cond": E, "prepend_cond": E}, "backbone 'adp_cfg_1d' does not take prepend_cond"),
        ({"cross_attn_cond": E, "exit_layer_ix": 3, "something": None}, "backbone 'adp_cfg_1d' does not take exit_layer_ix$"),
        ({"cross_attn_cond": E, "cfg_interval": (0.0, 0.5)}, "does not take cfg_interval"),
    ],
)
def test_what_the_wrapper_does_not_take(options, message):
    model = build(UNetCFG1DWrapper, **CFG)
    with pytest.raises(ConfigError, match=message):
        model(X, T2, **options)
    assert model(X, T2, cross_attn_cond=E, cfg_interval=[0.0, 1.0]).shape == X.shape


# ---- mistakes ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"factors": [2]}, "3 multipliers needs 2 factors and num_blocks and at least 2 attentions .*, got 1, 2 and 3"),
        ({"multipliers": [1]}, "1 multipliers needs 0 factors"),
        ({"context_channels": [1, 1, 1, 1]}, "U-Net of 2 levels takes at most 3 context_channels, got 4"),
        ({"kernel_multiplier_downsample": 3}, "kernel_multiplier_downsample must be even, got 3"),
        ({"resnet_groups": 3}, "resnet_groups must divide the width of every block, got 3 for a block of width"),
        ({"patch_size": 3}, r"patch_size must divide channels \* multipliers\[0\] = 16, got 3"),
        ({"attention_heads": None}, "attention needs attention_heads, attention_features or both"),
        ({"attentions": [1, 1, 1], "channels": 8}, "levels with attention need a width that is a multiple of 32, got 16"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(ConfigError, match=message):
        build(UNet1d, **(SMALL | options))
