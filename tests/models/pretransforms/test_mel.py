"""Mel spectrograms as a pretransform."""

import pytest
import torch

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.models.pretransforms import MelPretransform

RATE = 8000


def make(**options):
    settings = {"latent_dim": 16, "n_fft": 256, "hop_length": 64, "num_mels": 40, "num_iterations": 32, **options}
    return MelPretransform(RATE, **settings)


def sine(hertz, seconds=0.5, channels=1):
    return 0.5 * torch.sin(2 * torch.pi * hertz * torch.arange(int(seconds * RATE)) / RATE).expand(1, channels, -1)


def sounds(channels=1):
    """Tones of many pitches that decay, and noises."""
    generator = torch.Generator().manual_seed(0)
    decay = torch.exp(-torch.arange(4096) / 1000)
    tones = [sine(hertz, 4096 / RATE, channels)[0] * decay for hertz in torch.linspace(100, 3500, 30).tolist()]
    noises = [0.1 * torch.randn(channels, 4096, generator=generator) * decay for _ in range(5)]
    return torch.stack([*tones, *noises])


@pytest.fixture(scope="module")
def fitted():
    pretransform = make(latent_dim=64)
    pretransform.fit(sounds())
    return pretransform


def dominant(audio):
    spectrum = torch.fft.rfft(audio.flatten() * torch.hann_window(audio.numel())).abs()
    return float(spectrum.argmax()) * RATE / audio.numel()


@pytest.mark.parametrize("hertz", [220, 440, 1000, 2500])
def test_a_sine_comes_back_with_its_pitch(fitted, hertz):
    decoded = fitted.decode(fitted.encode(sine(hertz)))
    assert abs(dominant(decoded) - hertz) < max(0.06 * hertz, 40)  # a mel band, or an FFT bin
    assert 0.1 < decoded.abs().max() < 1.5


def test_silence_comes_back_silent(fitted):
    assert fitted.decode(fitted.encode(torch.zeros(1, 1, 4096))).abs().max() < 1e-2


def test_levels_come_back(fitted):
    """A decaying tone: its envelope, in dB, within 3 dB on average."""
    audio = sounds()[10:11]

    def envelope(x):
        return 20 * x.flatten().unfold(0, 512, 512).square().mean(dim=-1).sqrt().clamp_min(1e-3).log10()

    difference = envelope(fitted.decode(fitted.encode(audio))) - envelope(audio)
    assert difference[:6].abs().mean() < 3


@pytest.mark.parametrize("length", [128, 1280, 1281, 1407])
def test_lengths(fitted, length):
    latents = fitted.encode(torch.randn(2, 1, length) * 0.1)
    assert latents.shape == (2, 64, -(-length // 128))
    assert fitted.decode(latents).shape == (2, 1, 128 * latents.shape[-1])


def test_decoding_is_deterministic_and_leaves_the_random_stream_alone(fitted):
    latents = fitted.encode(sine(440))
    state = torch.get_rng_state()
    assert torch.equal(fitted.decode(latents), fitted.decode(latents))
    assert torch.equal(torch.get_rng_state(), state)


def test_items_of_a_batch_do_not_mix(fitted):
    latents = torch.cat([fitted.encode(sine(hertz)) for hertz in (300, 1200)])
    torch.testing.assert_close(fitted.decode(latents)[1:], fitted.decode(latents[1:]), atol=1e-3, rtol=0)


def test_stereo_keeps_the_sides_apart():
    pretransform = make(latent_dim=80, channels=2)
    left, right = sounds(), sounds().flip(0)
    pretransform.fit(torch.cat([left, right], dim=1))
    audio = torch.cat([sine(400), sine(1600)], dim=1)
    decoded = pretransform.decode(pretransform.encode(audio))
    assert decoded.shape == (*audio.shape[:2], 4096)
    assert abs(dominant(decoded[0, 0]) - 400) < 60 and abs(dominant(decoded[0, 1]) - 1600) < 100


def test_variance_kept_grows_to_everything():
    kept = [make(latent_dim=dim).fit(sounds()) for dim in (1, 4, 16, 80)]
    assert kept == sorted(kept) and kept[0] < 0.9 and kept[-1] == pytest.approx(1)


@pytest.mark.parametrize("whitening", [1.0, 0.0, 0.5])
def test_components_are_decorrelated_and_whitened_as_much_as_asked(whitening):
    pretransform = make(whitening=whitening)
    pretransform.fit(sounds())
    rows = pretransform.encode(sounds()).transpose(1, 2).flatten(0, 1)
    covariance = rows.T @ rows / len(rows)
    deviations = covariance.diagonal().sqrt()
    off_diagonal = covariance - torch.diag(covariance.diagonal())
    assert off_diagonal.abs().max() < 1e-2 * covariance.max()
    assert rows.mean(dim=0).abs().max() < 1e-3 * deviations.max()
    spread = float(deviations.max() / deviations.min())
    proportions = make(whitening=0.0)
    proportions.fit(sounds())
    full = proportions.encode(sounds()).transpose(1, 2).flatten(0, 1).std(dim=0)
    assert spread == pytest.approx(float(full.max() / full.min()) ** (1 - whitening), rel=0.02)


def test_all_components_are_inverted_up_to_the_phase():
    """With as many components as values, latents of decoded audio differ by what phases do, not by the projection."""
    pretransform = make(latent_dim=80)
    pretransform.fit(sounds())
    audio = sounds()[:3]
    rows = pretransform.encode(audio).transpose(1, 2) * pretransform.spread @ pretransform.basis + pretransform.mean
    torch.testing.assert_close(rows, pretransform.log_mel(audio), atol=2e-3, rtol=0)


def test_the_fit_is_saved_with_the_weights(fitted):
    other = make(latent_dim=64)
    other.load_state_dict(fitted.state_dict())
    assert torch.equal(other.encode(sine(440)), fitted.encode(sine(440)))
    assert set(fitted.state_dict()) == {"mean", "basis", "spread", "is_fitted"}


@pytest.mark.parametrize("direction", ["encode", "decode"])
def test_without_a_fit_it_refuses(direction):
    with pytest.raises(ConfigError, match=r"pretransform 'mel' has not been fitted: call fit\(audio\), or load weights"):
        getattr(make(), direction)(torch.zeros(1, 1 if direction == "encode" else 16, 512))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_works_inside_a_half_model(fitted, dtype):
    other = make(latent_dim=64)
    other.load_state_dict(fitted.state_dict())
    other.to(dtype)
    latents = other.encode(sine(1000).to(dtype))
    assert abs(dominant(other.decode(latents.to(dtype))) - 1000) < 60


def test_too_many_components():
    with pytest.raises(ConfigError, match=r"latent_dim can be at most channels \* num_mels \* frames_per_latent = 80, got 81"):
        make(latent_dim=81)


def test_builds_without_memory_and_in_inference_mode():
    """Filter banks are shared by the process, so nothing of the first caller's mode may stick to them."""
    with torch.device("meta"):
        assert make(num_mels=33).mean.device.type == "meta"
    with torch.inference_mode():
        make(num_mels=34)
    for bands in (33, 34):
        pretransform = make(num_mels=bands)
        audio = sine(440).requires_grad_()
        pretransform.log_mel(audio).sum().backward()
        assert audio.grad.any()
