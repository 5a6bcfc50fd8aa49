"""The spectral encoder and decoder."""

import pytest
import torch

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.models.autoencoders.spectral import SpectralDecoder, SpectralEncoder, _istft, _stft


@pytest.mark.parametrize(("n_fft", "hop"), [(64, 32), (64, 16), (64, 8), (48, 12), (60, 20)])
@pytest.mark.parametrize("frames", [1, 2, 9])
def test_the_transform_is_inverted_exactly_up_to_both_edges(n_fft, hop, frames):
    audio = torch.randn(2, 3, frames * hop)
    window = torch.hann_window(n_fft)
    spectrum = _stft(audio, n_fft, hop, window)
    assert spectrum.shape == (2, 3, n_fft // 2 + 1, frames)
    torch.testing.assert_close(_istft(spectrum, n_fft, hop, window), audio, atol=2e-5, rtol=0)


def test_frames_are_centred_on_their_hop():
    """A click in the middle of hop 3 is loudest in frame 3, and symmetric around it."""
    audio = torch.zeros(1, 1, 8 * 16)
    audio[..., 3 * 16 + 8] = 1
    level = _stft(audio, 64, 16, torch.hann_window(64)).abs()[0, 0, 5]
    assert int(level.argmax()) == 3
    torch.testing.assert_close(level[2], level[4], atol=1e-5, rtol=0)


@pytest.mark.parametrize("strides", [(), (2,), (3,), (2, 5), (4, 3)])
@pytest.mark.parametrize("channels", [1, 2])
def test_lengths(strides, channels):
    encoder = SpectralEncoder(channels, latent_dim=6, dim=8, depth=1, n_fft=32, hop_length=8, strides=strides)
    decoder = SpectralDecoder(channels, latent_dim=6, dim=8, depth=1, n_fft=32, hop_length=8, strides=strides)
    ratio = 8 * int(torch.tensor(strides).prod())
    for frames in (1, 2, 7):
        latents = encoder(torch.randn(2, channels, frames * ratio))
        assert latents.shape == (2, 6, frames)
        assert decoder(latents).shape == (2, channels, frames * ratio)


def test_a_latent_depends_on_audio_near_it():
    encoder = SpectralEncoder(1, latent_dim=2, dim=8, depth=1, n_fft=32, hop_length=8, strides=(2,))
    audio = torch.randn(1, 1, 16 * 40)
    changed = audio.clone()
    changed[..., :16] += 1
    difference = (encoder(changed) - encoder(audio)).abs().amax(dim=1)[0]
    assert difference[0] > 1e-4 and not difference[10:].any()


def test_silence_and_full_scale_are_finite_with_finite_gradients():
    torch.manual_seed(0)
    encoder = SpectralEncoder(1, latent_dim=4, dim=8, depth=1, n_fft=32, hop_length=8)
    decoder = SpectralDecoder(1, latent_dim=4, dim=8, depth=1, n_fft=32, hop_length=8)
    for audio in (torch.zeros(1, 1, 64), torch.ones(1, 1, 64), torch.randn(1, 1, 64) * 100):
        audio.requires_grad_()
        out = decoder(encoder(audio))
        out.square().sum().backward()
        assert torch.isfinite(out).all() and torch.isfinite(audio.grad).all()
        assert all(torch.isfinite(p.grad).all() for p in (*encoder.parameters(), *decoder.parameters()))


def test_output_level_is_bounded_however_wild_the_latents():
    decoder = SpectralDecoder(1, latent_dim=4, dim=8, depth=1, n_fft=32, hop_length=8)
    assert torch.isfinite(decoder(torch.randn(1, 4, 10) * 1e4)).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_follows_the_input(dtype):
    encoder = SpectralEncoder(1, latent_dim=4, dim=8, depth=1, n_fft=32, hop_length=8)
    decoder = SpectralDecoder(1, latent_dim=4, dim=8, depth=1, n_fft=32, hop_length=8)
    audio = torch.randn(1, 1, 128) * 0.3
    exact = encoder(audio)
    latents = encoder.to(dtype)(audio.to(dtype))
    assert latents.dtype == dtype
    torch.testing.assert_close(latents.float(), exact, atol=0.05, rtol=0.05)
    assert decoder.to(dtype)(latents).dtype == dtype
    assert torch.isfinite(decoder(latents).float()).all()


def test_windows_are_not_in_the_state_dict():
    assert not [name for name in SpectralEncoder(dim=8, n_fft=32, hop_length=8).state_dict() if "window" in name]


@pytest.mark.parametrize("kind", [SpectralEncoder, SpectralDecoder])
@pytest.mark.parametrize(
    "options", [{"n_fft": 33}, {"hop_length": 32}, {"hop_length": 7}, {"hop_length": 0}, {"strides": [0]}, {"strides": [2, 1]}]
)
def test_impossible_settings(kind, options):
    with pytest.raises(ConfigError, match=r"spectral: n_fft must be even, hop_length even and in .*, strides at least 2, got"):
        kind(**{"dim": 8, "n_fft": 32, "hop_length": 8, **options})


def test_as_an_autoencoder_with_the_ratio_checked():
    from stable_audio_tools.models import create_model_from_config

    parts = {"dim": 8, "depth": 1, "n_fft": 32, "hop_length": 8, "strides": [3]}
    config = {
        "model_type": "autoencoder",
        "sample_rate": 8000,
        "model": {
            "encoder": {"type": "spectral", "config": {"latent_dim": 8, **parts}},
            "decoder": {"type": "spectral", "config": {"latent_dim": 4, **parts}},
            "bottleneck": {"type": "vae"},
            "latent_dim": 4,
            "downsampling_ratio": 24,
            "io_channels": 1,
        },
    }
    assert create_model_from_config(config)(torch.randn(1, 1, 240)).shape == (1, 1, 240)
    config["model"]["downsampling_ratio"] = 16
    with pytest.raises(ConfigError, match=r"downsampling_ratio: is 16, but encoder.config.hop_length and strides \[8, 3\] multiply to 24"):
        create_model_from_config(config)
