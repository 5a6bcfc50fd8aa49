"""SEANet: padding, norms, options."""

import pytest
import torch

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.models.autoencoders.seanet import SEANetDecoder, SEANetEncoder, pad1d

SMALL = {"n_filters": 4, "dimension": 6, "ratios": [2, 4], "lstm": 1}


@pytest.mark.parametrize("mode", ["reflect", "constant", "replicate"])
@pytest.mark.parametrize(("left", "right"), [(0, 0), (2, 1), (3, 5)])
def test_padding_keeps_the_middle(mode, left, right):
    x = torch.randn(2, 3, 20)
    padded = pad1d(x, left, right, mode)
    assert padded.shape[-1] == 20 + left + right and torch.equal(padded[..., left : left + 20], x)
    if mode == "reflect" and left:
        assert torch.equal(padded[..., :left], x[..., 1 : left + 1].flip(-1))


@pytest.mark.parametrize("length", [1, 2, 3, 5])
def test_signals_too_short_to_be_reflected(length):
    x = torch.arange(1.0, length + 1)[None, None]
    padded = pad1d(x, 3, 3, "reflect")
    assert padded.shape[-1] == length + 6 and torch.equal(padded[..., 3 : 3 + length], x)


@pytest.mark.parametrize("length", [1, 7, 8, 9, 64, 65])
@pytest.mark.parametrize("causal", [False, True])
def test_lengths(length, causal):
    encoder, decoder = SEANetEncoder(**SMALL, causal=causal), SEANetDecoder(**SMALL, causal=causal)
    latents = encoder(torch.randn(1, 1, length))
    assert latents.shape == (1, 6, -(-length // 8))
    assert decoder(latents).shape == (1, 1, -(-length // 8) * 8)


@pytest.mark.parametrize("trim", [1.0, 0.5, 0.0])
def test_causal_networks_see_no_future(trim, randomise):
    encoder = randomise(SEANetEncoder(**SMALL, causal=True, pad_mode="constant"))
    x = torch.randn(1, 1, 128)
    changed = x.clone()
    changed[..., 64:] += 1
    assert torch.equal(encoder(x)[..., :8], encoder(changed)[..., :8]) and not torch.equal(encoder(x), encoder(changed))
    decoder = randomise(SEANetDecoder(**SMALL, causal=True, trim_right_ratio=trim, pad_mode="constant"))
    assert decoder(torch.randn(1, 6, 10)).shape[-1] == 80
    if trim == 1.0:
        latents = torch.randn(1, 6, 16)
        other = latents.clone()
        other[..., 8:] += 1
        assert torch.equal(decoder(latents)[..., :64], decoder(other)[..., :64])


@pytest.mark.parametrize("norm", ["none", "weight_norm", "spectral_norm", "layer_norm", "time_layer_norm", "time_group_norm"])
def test_norms(norm):
    encoder = SEANetEncoder(**SMALL, norm=norm)
    assert torch.isfinite(encoder(torch.randn(2, 1, 64))).all()
    keys = set(encoder.state_dict())
    assert ("model.0.conv.conv.weight_g" in keys) is (norm == "weight_norm")
    assert ("model.0.conv.norm.weight" in keys) is norm.endswith(("layer_norm", "group_norm"))


def test_order_of_strides_and_keys():
    """The encoder applies ratios as written, and the decoder too: it wants them reversed."""
    encoder, decoder = SEANetEncoder(**{**SMALL, "ratios": [2, 4]}), SEANetDecoder(**{**SMALL, "ratios": [4, 2]})
    assert encoder.state_dict()["model.3.conv.conv.weight_v"].shape == (8, 4, 4)
    assert decoder.state_dict()["model.3.convtr.convtr.weight_v"].shape == (16, 8, 8)
    assert {"model.7.lstm.weight_ih_l0", "model.1.block.1.conv.conv.weight_v", "model.1.shortcut.conv.conv.bias"} <= set(
        encoder.state_dict()
    )


def test_options():
    encoder = SEANetEncoder(**SMALL, true_skip=True, n_residual_layers=2, dilation_base=3, compress=4, activation="LeakyReLU")
    keys = set(encoder.state_dict())
    assert not any("shortcut" in key for key in keys)
    assert encoder.model[2].block[1].conv.conv.dilation == (3,) and encoder.model[2].block[1].conv.conv.out_channels == 1
    assert isinstance(encoder.model[1].block[0], torch.nn.LeakyReLU)
    decoder = SEANetDecoder(**SMALL, final_activation="Tanh")
    assert decoder(torch.randn(1, 6, 4) * 100).abs().max() <= 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SEANetEncoder(activation="ELUU"), "activation must be the name of a class in torch.nn, such as 'ELU', got 'ELUU'"),
        (lambda: SEANetEncoder(norm="time_group_norm", causal=True), "time_group_norm looks into the future, so it cannot be causal"),
        (lambda: SEANetDecoder(trim_right_ratio=2.0), r"trim_right_ratio must be in \[0, 1\], got 2.0"),
    ],
)
def test_mistakes(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
