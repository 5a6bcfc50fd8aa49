"""DAC: keys, lengths, channels."""

import pytest
import torch

from stable_audio_tools.models.autoencoders.dac import DACDecoderWrapper, DACEncoderWrapper
from stable_audio_tools.models.layers.activations import Snake1d


def test_snake_equals_the_formula():
    snake = Snake1d(3)
    assert torch.equal(snake.alpha, torch.ones(1, 3, 1))
    with torch.no_grad():
        snake.alpha.uniform_(0.1, 3)
    x = torch.randn(2, 3, 9, requires_grad=True)
    expected = x + (snake.alpha + 1e-9).reciprocal() * (snake.alpha * x).sin().square()
    torch.testing.assert_close(snake(x), expected)
    ours = torch.autograd.grad(snake(x).square().sum(), [x, snake.alpha])
    plain = torch.autograd.grad(expected.square().sum(), [x, snake.alpha])
    for first, second in zip(ours, plain, strict=True):
        torch.testing.assert_close(first, second)


def test_published_shapes():
    """The template of the 1.0 VAE."""
    with torch.device("meta"):
        encoder = DACEncoderWrapper(in_channels=2, d_model=128, strides=[4, 4, 8, 8], latent_dim=128).state_dict()
        decoder = DACDecoderWrapper(out_channels=2, channels=1536, rates=[8, 8, 4, 4], latent_dim=64).state_dict()
    expected = {
        "encoder.block.0.weight_v": (128, 2, 7),
        "encoder.block.1.block.0.block.0.alpha": (1, 128, 1),
        "encoder.block.1.block.4.weight_v": (256, 128, 8),
        "encoder.block.4.block.4.weight_v": (2048, 1024, 16),
        "encoder.block.5.alpha": (1, 2048, 1),
        "encoder.block.6.weight_v": (2048, 2048, 3),
        "proj_out.weight": (128, 2048, 1),
    }
    assert {key: tuple(encoder[key].shape) for key in expected} == expected
    expected = {
        "decoder.model.0.weight_v": (1536, 64, 7),
        "decoder.model.1.block.1.weight_g": (1536, 1, 1),
        "decoder.model.4.block.1.weight_v": (192, 96, 8),
        "decoder.model.5.alpha": (1, 96, 1),
        "decoder.model.6.weight_v": (2, 96, 7),
        "decoder.model.6.bias": (2,),
    }
    assert {key: tuple(decoder[key].shape) for key in expected} == expected


def test_without_a_projection():
    encoder = DACEncoderWrapper(d_model=4, strides=[2, 4])
    assert encoder(torch.randn(1, 1, 64)).shape == (1, 16, 8) and "proj_out.weight" not in encoder.state_dict()


@pytest.mark.parametrize(("rates", "length"), [([4, 2], 80), ([3, 2], 58)])
def test_decoded_lengths(rates, length):
    """An odd stride makes one step less."""
    assert DACDecoderWrapper(latent_dim=4, channels=16, rates=rates)(torch.randn(1, 4, 10)).shape == (1, 1, length)


def test_output_is_bounded():
    decoder = DACDecoderWrapper(latent_dim=4, channels=16, rates=[4, 2])
    assert decoder(torch.randn(1, 4, 10) * 1e4).abs().max() <= 1
