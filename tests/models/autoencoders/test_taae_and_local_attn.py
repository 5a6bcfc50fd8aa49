"""Transformers between convolutions, and instead of them."""

import pytest
import torch

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.models import create_model_from_config
from stable_audio_tools.models.autoencoders.local_attn import LocalTransformer, TransformerDecoder1D, TransformerEncoder1D
from stable_audio_tools.models.autoencoders.taae import TAAEBlock, TAAEDecoder, TAAEEncoder
from stable_audio_tools.models.layers.norms import AdaRMSNorm

TAAE = {"channels": 8, "c_mults": [1, 2], "strides": [2, 4], "transformer_depths": [2, 1], "latent_dim": 6}
LOCAL = {"heads": [2, 2], "depths": [1, 2], "local_attn_window_size": 4}

PARTS = (("encoder", 1, 6), ("decoder", 6, 1))


@pytest.mark.parametrize("options", [{}, {"use_snake": True}, {"use_dilated_conv": True}, {"use_snake": True, "use_dilated_conv": True}])
@pytest.mark.parametrize("more", [{}, {"conformer": True}, {"layer_scale": False}])
def test_taae_options(options, more):
    """Snake in a decoder block works on its input; the published one had the output's channels, and failed where these differ."""
    latents = TAAEEncoder(**TAAE, **options, **more)(torch.randn(1, 2, 64))
    assert latents.shape == (1, 6, 8) and TAAEDecoder(**TAAE, **options, **more)(latents).shape == (1, 2, 64)


def test_a_stride_of_one_has_no_convolution():
    block = TAAEBlock(8, 8, 1, 1, True)
    assert isinstance(block.layers[1], torch.nn.Identity) and block(torch.randn(1, 8, 10)).shape == (1, 8, 10)
    with pytest.raises(ConfigError, match="a stride of 1 cannot change the width, got 8 and 16 channels"):
        TAAEBlock(8, 16, 1, 1, True)


@pytest.mark.parametrize("length", [20, 400])
def test_taae_sees_its_window_and_no_more(randomise, length):
    """The published version ignored windows without a special attention kernel."""
    block = randomise(TAAEBlock(8, 8, 1, 2, True, sliding_window=[3, 2], layer_scale=False)).requires_grad_(False)
    x = torch.randn(1, 8, length)
    changed = x.clone()
    changed[..., 10] = torch.randn(8) * 3  # a shift of all channels would vanish in the norm
    touched = ((block(x) - block(changed)).abs().amax(dim=(0, 1)) > 0).nonzero().flatten()
    assert (touched.min(), touched.max()) == (10 - 2 * 2, 10 + 2 * 3)


def test_taae_window_is_a_mask(randomise):
    torch.manual_seed(0)
    model = randomise(TAAEEncoder(**TAAE, sliding_window=[50, 50], layer_scale=False)).requires_grad_(False)
    x = torch.randn(1, 2, 64)
    windowed = model(x)
    for layer in model.layers:
        if isinstance(layer, TAAEBlock):
            layer.sliding_window = None
    torch.testing.assert_close(model(x), windowed, atol=1e-5, rtol=1e-5)  # wider than everything


def test_taae_recomputing_changes_nothing():
    x, grads = torch.randn(1, 2, 64), []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = TAAEEncoder(**TAAE, use_dilated_conv=True, checkpointing=checkpointing).train()
        model(x).square().sum().backward()
        grads.append([p.grad for p in model.parameters()])
    for plain, recomputed in zip(*grads, strict=True):
        torch.testing.assert_close(plain, recomputed)


@pytest.mark.parametrize("options", [{}, {"use_snake": True, "use_dilated_conv": True}])
@pytest.mark.parametrize("style", ["conv", "linear", "none"])
def test_taae_mapping_styles(style, options):
    encoder, decoder = TAAEEncoder(**TAAE, **options, mapping_style=style), TAAEDecoder(**TAAE, **options, mapping_style=style)
    latents = encoder(torch.randn(1, 2, 64))
    assert latents.shape == (1, 6, 8) and decoder(latents).shape == (1, 2, 64)


def test_taae_layers_of_the_mapping_styles():
    def keys(module):
        return {key: tuple(value.shape) for key, value in module.state_dict().items()}

    encoder, decoder = keys(TAAEEncoder(**TAAE, mapping_style="linear")), keys(TAAEDecoder(**TAAE, mapping_style="linear"))
    assert encoder["layers.1.weight"] == (8, 2) and encoder["layers.1.bias"] == (8,) and "layers.3.layers.1.weight_v" in encoder
    assert decoder["layers.1.weight"] == (16, 6) and decoder["layers.6.weight"] == (2, 8)
    assert keys(TAAEEncoder(**TAAE, mapping_style="none"))["layers.0.layers.1.weight_v"] == (8, 2, 4)
    assert keys(TAAEDecoder(**TAAE, mapping_style="none"))["layers.2.layers.2.weight_v"] == (8, 2, 4)
    assert keys(TAAEEncoder(**TAAE)) == keys(TAAEEncoder(**TAAE, mapping_style="conv"))


# ---- local attention -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 63, 64, 65])
def test_local_lengths(length):
    encoder = TransformerEncoder1D(2, 6, embed_dims=[8, 16], ratios=[2, 4], **LOCAL)
    decoder = TransformerDecoder1D(6, 2, embed_dims=[16, 8], ratios=[4, 2], **LOCAL)
    latents = encoder(torch.randn(1, 2, length))
    assert latents.shape == (1, 6, -(-length // 8)) and decoder(latents).shape == (1, 2, -(-length // 8) * 8)


@pytest.mark.parametrize(("causal", "before", "after"), [(False, 2, 1), (True, 3, 0)])
@pytest.mark.parametrize("length", [30, 300])
def test_local_windows(randomise, causal, before, after, length):
    transformer = randomise(LocalTransformer(8, 1, 2, local_attn_window_size=4, causal=causal)).requires_grad_(False)
    x = torch.randn(1, length, 8)
    changed = x.clone()
    changed[:, 10] = torch.randn(8) * 3
    touched = ((transformer(x) - transformer(changed)).abs().amax(dim=(0, 2)) > 0).nonzero().flatten()
    assert (touched.min(), touched.max()) == (10 - after, 10 + before)


def test_folding_and_unfolding_are_inverse(randomise):
    """With projections that undo each other, and layers that start as nothing, audio comes back."""
    encoder = TransformerEncoder1D(1, 4, embed_dims=[4], ratios=[3], heads=[1], depths=[1])
    decoder = TransformerDecoder1D(4, 1, embed_dims=[4], ratios=[3], heads=[1], depths=[1])
    with torch.no_grad():
        encoder.project_in.weight.copy_(torch.eye(4)[:, :1])
        encoder.layers[0].project_down.weight.copy_(torch.eye(4, 12))  # the three steps of the first channel, and one that is zero
        encoder.project_out.weight.copy_(torch.eye(4))
        decoder.project_in.weight.copy_(torch.eye(4))
        decoder.layers[0].project_up.weight.copy_(torch.eye(12, 4))
        decoder.project_out.weight.copy_(torch.eye(4)[:1])
    audio = torch.randn(2, 1, 30)
    torch.testing.assert_close(decoder(encoder(audio)), audio)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LocalTransformer(9, 1, 2), "embed_dims must be multiples of heads, at least twice as large.*got 9, 2 and 64"),
        (lambda: LocalTransformer(8, 1, 2, local_attn_window_size=0), "local_attn_window_size at least 1, got 8, 2 and 0"),
        (lambda: TransformerEncoder1D(1, 4, heads=[1]), "must have one entry per block, got 4, 1, 4 and 4"),
    ],
)
def test_mistakes(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize("kind", [TransformerEncoder1D, TransformerDecoder1D])
def test_local_conditions(randomise, kind):
    options = {**LOCAL, "embed_dims": [8, 8], "ratios": [2, 2], "cond_dim": 3, "cross_attn_cond_dim": 4}
    model = randomise(kind(2, 6, **options)).requires_grad_(False)
    x, cond, context = torch.randn(2, 2, 16), torch.randn(2, 3), torch.randn(2, 5, 4)
    out = model(x, cond=cond, cross_attn_cond=context)
    assert (out - model(x, cond=cond + 1, cross_attn_cond=context)).abs().max() > 1e-4
    assert (out - model(x, cond=cond, cross_attn_cond=context + 1)).abs().max() > 1e-4
    each = torch.cat([model(*(tensor[i : i + 1] for tensor in (x, cond, context))) for i in range(2)])
    torch.testing.assert_close(out, each, atol=1e-5, rtol=1e-5)
    with pytest.raises(ConfigError, match="local_attn: cond must be given if, and only if, cond_dim is set, which is 3"):
        model(x, cross_attn_cond=context)
    with pytest.raises(ConfigError, match="cross_attn_cond must be given if, and only if, cross_attn_cond_dim is set, which is 0"):
        kind(2, 6, **{**options, "cross_attn_cond_dim": 0})(x, cond, context)


def test_a_condition_that_scales_norms_says_nothing_at_first():
    torch.manual_seed(0)
    norm = AdaRMSNorm(8, 3)
    x = torch.randn(2, 5, 8)
    torch.testing.assert_close(norm(x, torch.randn(2, 3)), x / x.square().mean(-1, keepdim=True).sqrt())


def test_conditions_reach_a_local_encoder_through_the_autoencoder():
    sizes = {"embed_dims": [8], "ratios": [4], "heads": [2], "depths": [1], "cond_dim": 3}
    parts = {name: {"type": "local_attn", "config": {**sizes, "in_channels": a, "out_channels": b}} for name, a, b in PARTS}
    config = {"model_type": "autoencoder", "sample_rate": 8000}
    config["model"] = {**parts, "latent_dim": 6, "downsampling_ratio": 4, "io_channels": 1}
    model = create_model_from_config(config)
    cond = torch.randn(2, 3)
    latents = model.encode(torch.randn(2, 1, 16), cond=cond)
    assert latents.shape == (2, 6, 4) and model.decode(latents, cond=cond).shape == (2, 1, 16)
