"""Oobleck: lengths, and names and shapes of its weights."""

import math
from importlib.resources import files

import pytest
import torch

from stable_audio_tools.models import create_model_from_config, create_model_from_config_path
from stable_audio_tools.models.autoencoders import OobleckDecoder, OobleckEncoder


@pytest.mark.parametrize("strides", [(2,), (2, 4), (4, 8), (2, 2, 6)])
@pytest.mark.parametrize("nearest", [False, True])
@pytest.mark.parametrize("snake", [False, True])
def test_lengths_for_even_strides(strides, nearest, snake):
    parts = {"channels": 2, "c_mults": [1, 1, 2][: len(strides)], "strides": strides, "use_snake": snake}
    ratio = math.prod(strides)
    latents = OobleckEncoder(in_channels=2, latent_dim=3, **parts)(torch.randn(1, 2, 5 * ratio))
    assert latents.shape == (1, 3, 5)
    decoder = OobleckDecoder(out_channels=2, latent_dim=3, use_nearest_upsample=nearest, **parts)
    assert decoder(latents).shape == (1, 2, 5 * ratio)


def test_lengths_for_odd_strides_are_those_of_published_weights():
    parts = {"channels": 2, "c_mults": [1], "strides": [3]}
    assert OobleckEncoder(in_channels=1, latent_dim=3, **parts)(torch.randn(1, 1, 15)).shape[-1] == 5
    assert OobleckDecoder(out_channels=1, latent_dim=3, **parts)(torch.randn(1, 3, 5)).shape[-1] == 14


@pytest.mark.parametrize("tail", [1, 3, 7])
def test_a_tail_that_fills_no_frame_is_left_out(tail):
    encoder = OobleckEncoder(in_channels=1, channels=2, latent_dim=3, c_mults=[1, 1], strides=[2, 4])
    assert encoder(torch.randn(1, 1, 40 + tail)).shape[-1] == 5


@pytest.mark.parametrize("final_tanh", [True, False])
def test_final_tanh_bounds_the_output(final_tanh):
    torch.manual_seed(0)
    decoder = OobleckDecoder(out_channels=1, channels=2, latent_dim=3, c_mults=[1], strides=[2], final_tanh=final_tanh)
    peak = decoder(torch.randn(1, 3, 50) * 1000).abs().max()
    assert bool(peak <= 1) is final_tanh


@pytest.mark.parametrize("part", ["encoder", "decoder"])
@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("snake", [False, True])
def test_anti_aliasing_is_where_published_weights_have_it(part, antialias, snake):
    options = {"channels": 2, "c_mults": [1, 1], "strides": [2, 2], "latent_dim": 3, "use_snake": snake, "antialias_activation": antialias}
    module = OobleckEncoder(**options) if part == "encoder" else OobleckDecoder(**options)
    places = {name.split(".upsample.filter")[0] for name in module.state_dict() if name.endswith("upsample.filter")}
    everywhere = {"encoder": {"layers.3"}, "decoder": {"layers.1.layers.0", "layers.2.layers.0", "layers.3"}}
    assert places == (everywhere[part] if antialias else set())


# ---- the weights of Stable Audio 2.0 -----------------------------------------------------------------------------------------------


def conv(name, shape, *, bias=None, transposed=False):
    out = shape[1] if transposed else shape[0]
    return {
        f"{name}.weight_g": (shape[0], 1, 1),
        f"{name}.weight_v": shape,
        **({f"{name}.bias": (out,)} if bias is not False else {}),
    }


def snake(name, channels):
    return {f"{name}.alpha": (channels,), f"{name}.beta": (channels,)}


def residual_unit(name, channels):
    return {
        **snake(f"{name}.layers.0", channels),
        **conv(f"{name}.layers.1", (channels, channels, 7)),
        **snake(f"{name}.layers.2", channels),
        **conv(f"{name}.layers.3", (channels, channels, 1)),
    }


def published_shapes(width, audio_channels, latent_dim, encoder_dim, mults=(1, 1, 2, 4, 8, 16), strides=(2, 4, 4, 8, 8)):
    """The layout of the published autoencoder, written out from its description."""
    widths = [width * mult for mult in mults]
    last = len(strides) + 1
    encoder = conv("layers.0", (widths[0], audio_channels, 7))
    for block, (narrow, wide, stride) in enumerate(zip(widths, widths[1:], strides, strict=False), start=1):
        for unit in range(3):
            encoder |= residual_unit(f"layers.{block}.layers.{unit}", narrow)
        encoder |= snake(f"layers.{block}.layers.3", narrow) | conv(f"layers.{block}.layers.4", (wide, narrow, 2 * stride))
    encoder |= snake(f"layers.{last}", widths[-1]) | conv(f"layers.{last + 1}", (encoder_dim, widths[-1], 3))
    decoder = conv("layers.0", (widths[-1], latent_dim, 7))
    backwards = list(zip(widths, widths[1:], strides, strict=False))[::-1]
    for block, (narrow, wide, stride) in enumerate(backwards, start=1):
        decoder |= snake(f"layers.{block}.layers.0", wide)
        decoder |= conv(f"layers.{block}.layers.1", (wide, narrow, 2 * stride), transposed=True)
        for unit in range(2, 5):
            decoder |= residual_unit(f"layers.{block}.layers.{unit}", narrow)
    decoder |= snake(f"layers.{last}", widths[0]) | conv(f"layers.{last + 1}", (audio_channels, widths[0], 7), bias=False)
    return {f"encoder.{key}": value for key, value in encoder.items()} | {f"decoder.{key}": value for key, value in decoder.items()}


def shapes_of(module):
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def test_state_dict_of_a_small_one(oobleck_config):
    config = oobleck_config(strides=(2, 4, 4, 8, 8), latent_dim=6, audio_channels=2)
    for part in ("encoder", "decoder"):
        config["model"][part]["config"] |= {"channels": 4, "c_mults": [1, 2, 4, 8, 16]}
    assert shapes_of(create_model_from_config(config)) == published_shapes(4, 2, 6, 12)


def test_state_dict_of_the_shipped_stable_audio_2_0_autoencoder():
    path = files("stable_audio_tools") / "configs/model_configs/autoencoders/stable_audio_2_0_vae.json"
    with torch.device("meta"):
        model = create_model_from_config_path(str(path))
    assert shapes_of(model) == published_shapes(128, 2, 64, 128)
    assert sum(math.prod(shape) for shape in shapes_of(model).values()) == pytest.approx(156.1e6, rel=0.01)  # as published
