"""SAME against a direct transcription of its definition: one token at a time, with masks instead of folding."""

import pytest
import torch
import torch.nn.functional as F

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.families import DECODERS, ENCODERS
from stable_audio_tools.models.autoencoders.same import SAMEDecoder, SAMEEncoder, TransformerResamplingBlock
from stable_audio_tools.models.layers.embeddings import apply_rotary

OPTIONS = {"channels": 16, "c_mults": [1], "strides": [4], "transformer_depths": [3], "latent_dim": 6, "dim_heads": 8, "chunk_size": 8}


@pytest.fixture
def build(randomise):
    def make(kind, **options):
        torch.manual_seed(0)
        return randomise(kind(**{**OPTIONS, **options})).eval().requires_grad_(False)

    return make


def brute_force_layer(layer, x, positions, sees):
    """A transformer layer with explicit softmax. ``positions``: (L,) of rotary embeddings; ``sees``: (L, L)."""
    attention = layer.self_attn
    parts = attention.to_qkv(layer.pre_norm(x)).chunk(5 if attention.differential else 3, -1)
    q, k, v, *more = [part.unflatten(-1, (-1, attention.dim_heads)).transpose(1, 2) for part in parts]
    angles = torch.outer(positions.float(), layer.rope.inv_freq).repeat(1, 2)

    def attend(q, k):
        q, k = apply_rotary(attention.q_norm(q), angles), apply_rotary(attention.k_norm(k), angles)
        scores = (q @ k.transpose(-1, -2) / attention.dim_heads**0.5).masked_fill(~sees, float("-inf"))
        return scores.softmax(dim=-1) @ v

    out = attend(q, k) - attend(*more) if more else attend(q, k)
    x = x + attention.to_out(out.transpose(1, 2).flatten(-2))
    return x + layer.ff(layer.ff_norm(x))


@pytest.mark.parametrize("differential", [True, False])
@pytest.mark.parametrize("dyt", [True, False])
@pytest.mark.parametrize(
    ("window", "length"), [([1, 1], 40), ([0, 0], 40), ([2, 0], 40), ([1, 1], 400), ([0, 3], 400), ([-1, 1], 40), (None, 40)]
)
def test_encoder_equals_brute_force(build, window, length, differential, dyt):
    encoder = build(SAMEEncoder, sliding_window=window, differential=differential, dyt=dyt)
    audio = torch.randn(2, 2, length)
    (block,) = encoder.blocks
    x = block.mapping(audio).transpose(1, 2)
    segments = torch.cat([x.unflatten(1, (-1, 4)), block.new_tokens.expand(2, length // 4, 1, -1)], dim=2)
    x = segments.flatten(1, 2)
    tokens = torch.arange(x.shape[1])
    offset = tokens[None] - tokens[:, None]
    if window is None:
        sees, positions = tokens[None] // 10 == tokens[:, None] // 10, tokens % 10
    else:
        left, right = (1000 if side < 0 else side * 5 for side in window)
        sees, positions = (offset >= -left) & (offset <= right), tokens
    for layer in block.transformers:
        x = brute_force_layer(layer, x, positions, sees)
    expected = encoder.layers[2](x.unflatten(1, (-1, 5))[:, :, 4]).transpose(1, 2)
    torch.testing.assert_close(encoder(audio), expected, atol=1e-4, rtol=1e-4)


def test_decoder_with_shifted_chunks_equals_brute_force(build):
    decoder = build(SAMEDecoder, chunk_midpoint_shift=True, sinusoidal_blocks=[3], conv_mapping=True)
    latents = torch.randn(2, 6, 6)  # three chunks of two frames
    (block,) = decoder.blocks
    assert [layer.ff.ff[0].sinusoidal for layer in block.transformers] == [False, True, True]
    x = decoder.layers[1](latents.transpose(1, 2))
    x = torch.cat([x[:, :, None], block.new_tokens.expand(2, 6, 4, -1)], dim=2).flatten(1, 2)  # (B, 30, D)
    tokens = torch.arange(30)
    x = brute_force_layer(block.transformers[0], x, tokens % 10, tokens[None] // 10 == tokens[:, None] // 10)
    x = torch.cat([x[:, :5], x, x[:, -5:]], dim=1)
    tokens = torch.arange(40)
    for layer in block.transformers[1:]:
        x = brute_force_layer(layer, x, tokens % 10, tokens[None] // 10 == tokens[:, None] // 10)
    x = x[:, 5:-5].unflatten(1, (-1, 5))[:, :, 1:].flatten(1, 2)
    torch.testing.assert_close(decoder(latents), block.mapping(x.transpose(1, 2)), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("window", [None, [1, 1]])
@pytest.mark.parametrize("length", [1, 7, 8, 9, 31])
def test_lengths_are_those_of_the_ratio(build, window, length):
    """The published version gave more, rounded up to whole chunks, and left trimming to its callers."""
    options = {"c_mults": [1, 2], "strides": [2, 4], "transformer_depths": [1, 1], "sliding_window": window}
    encoder, decoder = build(SAMEEncoder, **options), build(SAMEDecoder, **options)
    assert encoder(torch.randn(1, 2, length)).shape == (1, 6, -(-length // 8))
    assert decoder(torch.randn(1, 6, length)).shape == (1, 2, length * 8)


def test_what_fills_the_last_chunk_is_silence(build):
    encoder = build(SAMEEncoder)
    audio = torch.randn(1, 2, 20)
    torch.testing.assert_close(encoder(audio), encoder(F.pad(audio, (0, 4)))[..., :5])


def test_a_window_sees_no_further(build):
    encoder = build(SAMEEncoder, sliding_window=[1, 1])
    audio = torch.randn(1, 2, 4 * 40)
    changed = audio.clone()
    changed[..., 80:] += 1
    same = (encoder(audio) - encoder(changed)).abs().amax(dim=(0, 1)) == 0
    assert same[: 20 - 3].all() and not same[20 - 3 : 22].any()  # three layers, one segment each


def test_depth_zero_changes_only_the_width(build):
    encoder = build(SAMEEncoder, transformer_depths=[0])
    assert encoder(torch.randn(1, 2, 13)).shape == (1, 6, 13)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 0),
        ({"sinusoidal_blocks": [1]}, 0),
        ({"sinusoidal_blocks": [3]}, 2),
        ({"sinusoidal_blocks": 2}, 1),
        ({"sinusoidal_layers": [3]}, 3),
    ],
)
def test_number_of_sines(options, expected):
    for kind in (SAMEEncoder, SAMEDecoder):
        (block,) = kind(**OPTIONS, **options).blocks
        assert sum(layer.ff.ff[0].sinusoidal for layer in block.transformers) == expected


# ---- noise, strides, freezing --------------------------------------------------------------------------------------------------------


def test_noise_on_learned_tokens_is_drawn_once_per_block(build):
    encoder = build(SAMEEncoder, mask_noise=0.5, sliding_window=[1, 1])
    quiet = build(SAMEEncoder, mask_noise=0.5, mask_noise_in_eval=False, sliding_window=[1, 1])
    audio = torch.randn(2, 2, 24)
    torch.manual_seed(3)
    noisy = encoder(audio)
    after = torch.randn(1)
    torch.manual_seed(3)
    torch.randn(12, 1, 16)  # (B n, 1, D)
    assert torch.equal(torch.randn(1), after)
    torch.manual_seed(3)
    assert torch.equal(encoder(audio), noisy)
    assert not torch.equal(encoder(audio), noisy)
    assert torch.equal(quiet(audio), quiet(audio)) and not torch.equal(quiet.train()(audio), quiet(audio))
    decoder = build(SAMEDecoder, mask_noise=0.5, variable_stride=True)
    torch.manual_seed(3)
    decoder(torch.randn(1, 6, 4, generator=torch.Generator().manual_seed(0)))
    after = torch.randn(1)
    torch.manual_seed(3)
    torch.randn(4, 4, 16)
    assert torch.equal(torch.randn(1), after)


def test_other_strides(build):
    options = {"c_mults": [1, 2], "strides": [2, 4], "transformer_depths": [1, 1], "variable_stride": True}
    encoder, decoder = build(SAMEEncoder, **options), build(SAMEDecoder, **options)
    audio = torch.randn(1, 2, 32)
    torch.testing.assert_close(encoder(audio, override_stride=[2, 4]), encoder(audio))
    assert encoder(audio, override_stride=[1, 2]).shape[-1] == 16
    latents = torch.randn(1, 6, 4)
    torch.testing.assert_close(decoder(latents, override_stride=[4, 2]), decoder(latents))
    assert decoder(latents, override_stride=[8, 1]).shape[-1] == 32


@pytest.mark.parametrize("kind", [SAMEEncoder, SAMEDecoder])
def test_a_frozen_backbone_stays_frozen(kind):
    model = kind(**OPTIONS, freeze_backbone=True).requires_grad_(True)
    trained = {name.split(".")[2] for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {"mapping"}
    assert not any(parameter.requires_grad for parameter in model.requires_grad_(False).parameters())


def test_recomputing_layers_changes_nothing(build):
    audio, grads = torch.randn(1, 2, 24), []
    for checkpointing in (False, True):
        encoder = build(SAMEEncoder, checkpointing=checkpointing).train().requires_grad_(True)
        encoder(audio).square().sum().backward()
        grads.append([p.grad for p in encoder.parameters()])
    for plain, recomputed in zip(*grads, strict=True):
        torch.testing.assert_close(plain, recomputed)


def test_alignment_is_that_of_the_chunks():
    def alignment(kind, **options):
        return kind(**{**OPTIONS, "c_mults": [1, 1], "strides": [2, 4], "transformer_depths": [1, 1], **options}).alignment

    for kind in (SAMEEncoder, SAMEDecoder):
        assert alignment(kind, chunk_size=8) == 2  # the outer blocks' 8 steps are one frame, the inner ones' 8 are two
        assert alignment(kind, chunk_size=12) == 3
        assert alignment(kind, sliding_window=[1, 1]) == 1


# ---- state dict ----------------------------------------------------------------------------------------------------------------------


def test_initial_values():
    block = TransformerResamplingBlock(4, 8, 4, 1, "encoder", dim_heads=4)
    assert 0 < block.new_tokens.abs().max() < 1e-4
    (layer,) = block.transformers
    assert layer.pre_norm.alpha == 4 and layer.self_attn.q_norm.alpha == 4
    assert not layer.self_attn.to_out.weight.any() and not layer.ff.ff[2].weight.any()


@pytest.mark.parametrize(
    ("options", "present"),
    [
        ({}, {"pre_norm.alpha", "pre_norm.beta", "self_attn.q_norm.alpha"}),
        ({"dyt": False}, {"pre_norm.gamma", "self_attn.q_norm.gamma"}),
        ({"feat_scale": True}, {"self_attn.lambda_dc", "self_attn.lambda_hf"}),
        ({"layer_scale": True}, {"self_attn_scale.scale", "ff_scale.scale"}),
        ({"cross_attn": True}, {"cross_attend_norm.alpha", "cross_attn.to_qkv.weight", "cross_attn.to_out.weight"}),
        ({"conformer": True}, {"conformer.in_norm.gamma", "conformer.glu.proj.weight"}),
    ],
)
def test_keys_of_a_layer(options, present):
    keys = set(SAMEEncoder(**OPTIONS, **options).state_dict())
    assert {f"layers.0.transformers.0.{key}" for key in present} <= keys
    assert ("layers.0.transformers.0.pre_norm.beta" in keys) is options.get("dyt", True)


def test_keys_of_a_block():
    keys = set(SAMEEncoder(**OPTIONS, mapping_bias=False).state_dict())
    assert "layers.0.mapping.weight_g" in keys and "layers.0.mapping.bias" not in keys
    assert not any("mapping" in key for key in SAMEEncoder(**{**OPTIONS, "channels": 2, "dim_heads": 2}).state_dict())
    shapes = {key: tuple(value.shape) for key, value in SAMEDecoder(**OPTIONS, conv_mapping=True).state_dict().items()}
    assert shapes["layers.3.new_tokens"] == (1, 4, 16) and shapes["layers.3.mapping.weight_v"] == (2, 16, 3)
    assert shapes["layers.3.transformers.0.rope.inv_freq"] == (2,)


# ---- configs -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [ENCODERS, DECODERS])
def test_the_old_name_is_the_same_part(family, caplog):
    dead = {"use_snake": False, "use_dilated_conv": False, "conv_bias": False, "mapping_style": "none", "use_flash": True, "causal": False}
    old = family.build("taae_v2", {**OPTIONS, **dead})
    assert type(old) is type(family.build("same", OPTIONS))
    mistakes = family.check("taae_v2", {"mask_nose": 0.1})
    assert [mistake.message for mistake in mistakes] == ["unknown key; did you mean 'mask_noise'?"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chunk_size": 10}, "chunk_size must be a multiple of the stride 4, got 10; or set sliding_window"),
        ({"chunk_size": 4, "chunk_midpoint_shift": True}, "even number of tokens per chunk, but chunk_size 4 with a stride of 4 makes 5"),
        ({"sliding_window": [1]}, r"sliding_window \[left, right\] or null, got 4 and \[1\]"),
        ({"strides": [0]}, "a stride must be at least 1.*got 0 and None"),
        ({"c_mults": [1, 2]}, "strides has 1 entries, but c_mults makes 2 blocks"),
        ({"transformer_depths": []}, "transformer_depths has 0 entries, but c_mults makes 1 blocks"),
    ],
)
def test_mistakes(options, message):
    for kind in (SAMEEncoder, SAMEDecoder):
        with pytest.raises(ConfigError, match=message):
            kind(**{**OPTIONS, **options})


def test_mistakes_in_other_strides(build):
    with pytest.raises(ConfigError, match="another stride than 4 needs variable_stride: true, got 2"):
        build(SAMEEncoder)(torch.randn(1, 2, 8), override_stride=[2])
    with pytest.raises(ConfigError, match=r"override_stride needs one entry for each of 1 blocks, got \[2, 2\]"):
        build(SAMEEncoder, variable_stride=True)(torch.randn(1, 2, 8), override_stride=[2, 2])
    with pytest.raises(ConfigError, match="chunk_size must be a multiple of the stride 3, got 8"):
        build(SAMEEncoder, variable_stride=True)(torch.randn(1, 2, 8), override_stride=[3])
