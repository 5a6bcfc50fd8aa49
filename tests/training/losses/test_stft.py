"""Spectral losses: properties, and the reference's numbers."""

import json

import pytest
import torch
from safetensors.torch import load_file

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.training.losses.stft import MelSTFTLoss, MultiResolutionSTFTLoss, STFTLoss, SumAndDifferenceSTFTLoss

SMALL = {"fft_sizes": [256, 64], "hop_sizes": [64, 16], "win_lengths": [256, 64]}


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 0.1


def test_values_equal_the_reference(shared):
    folder = shared / "goldens" / "losses"
    signals = load_file(folder / "tensors.safetensors")
    fakes, reals = signals["fakes"], signals["reals"]
    checked = 0
    for case in json.loads((folder / "reference.json").read_text())["losses"]:
        if case["name"].startswith("sum-and-difference-stft/"):
            value = SumAndDifferenceSTFTLoss(sample_rate=case["sample_rate"], **case["config"])(fakes, reals)
        elif case["name"].startswith("multi-resolution-stft/"):
            value = MultiResolutionSTFTLoss(sample_rate=case["sample_rate"], **case["config"])(fakes[:, :1], reals[:, :1])
        else:
            continue
        assert float(value) == pytest.approx(case["value"], rel=2e-6), case["name"]
        checked += 1
    assert checked == 6


@pytest.mark.parametrize("options", [{}, {"w_phs": 1.0}, {"w_lin_mag": 1.0, "mag_distance": "L2"}, {"perceptual_weighting": True}])
def test_equal_signals_have_no_distance_and_others_do(options):
    loss = MultiResolutionSTFTLoss(**SMALL, sample_rate=8000, **options)
    audio = noise(2, 1, 1024)
    assert float(loss(audio, audio)) == 0
    distances = [float(loss(audio + amount * noise(2, 1, 1024, seed=1), audio)) for amount in (0.01, 0.1, 1.0)]
    assert 0 < distances[0] < distances[1] < distances[2]


def test_a_batch_is_the_mean_of_its_items():
    """Spectral convergence is a ratio per signal; one ratio over the whole batch would be ruled by its loudest item."""
    loss = MultiResolutionSTFTLoss(**SMALL)
    x, y = noise(3, 1, 1024), noise(3, 1, 1024, seed=1)
    x[0] *= 10
    items = torch.stack([loss(x[index : index + 1], y[index : index + 1]) for index in range(3)])
    torch.testing.assert_close(loss(x, y), items.mean())
    torch.testing.assert_close(loss(x.view(1, 3, -1), y.view(1, 3, -1)), items.mean())


def test_convergence_is_a_gain_error_relative_to_the_target():
    loss = STFTLoss(256, 64, 256, w_log_mag=0.0)
    audio = noise(1, 1, 2048)
    assert float(loss(1.5 * audio, audio)) == pytest.approx(0.5, rel=1e-4)
    assert float(loss(audio, 1.5 * audio)) == pytest.approx(1 / 3, rel=1e-4)


def test_log_distance_is_the_gain_in_nepers():
    loss = STFTLoss(256, 64, 256, w_sc=0.0)
    audio = noise(1, 1, 2048)
    assert float(loss(2 * audio, audio)) == pytest.approx(0.6931, rel=1e-3)


def test_a_weighting_forgives_what_ears_do_not_hear():
    t = torch.arange(4096) / 44100
    audio = noise(1, 1, 4096)
    plain, weighted = (STFTLoss(2048, 512, 2048, 44100, w_log_mag=0.0, perceptual_weighting=on) for on in (False, True))
    low, middle = (0.3 * torch.sin(2 * torch.pi * frequency * t) for frequency in (40.0, 3000.0))
    assert float(plain(audio + low, audio)) == pytest.approx(float(plain(audio + middle, audio)), rel=0.3)
    assert float(weighted(audio + low, audio)) < 0.3 * float(weighted(audio + middle, audio))


@pytest.mark.parametrize("channels", [1, 2])
def test_silence_gives_finite_losses_and_gradients(channels):
    make = MultiResolutionSTFTLoss if channels == 1 else SumAndDifferenceSTFTLoss
    loss = make(**SMALL, sample_rate=8000, perceptual_weighting=True, w_phs=1.0)
    for x, y in ((torch.zeros(1, channels, 1024), noise(1, channels, 1024)), (noise(1, channels, 1024), torch.zeros(1, channels, 1024))):
        x.requires_grad_()
        value = loss(x, y)
        value.backward()
        assert bool(value.isfinite()) and x.grad is not None and bool(x.grad.isfinite().all())


def test_under_autocast_it_is_computed_in_float32():
    loss = MultiResolutionSTFTLoss(**SMALL, sample_rate=8000, perceptual_weighting=True)
    x, y = noise(1, 1, 1024), noise(1, 1, 1024, seed=1)
    expected = loss(x, y)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(loss(x, y), expected)


def test_sum_and_difference_hear_what_a_channel_swap_does():
    loss = SumAndDifferenceSTFTLoss(**SMALL)
    audio = noise(1, 2, 1024)
    assert float(loss(audio, audio)) == 0
    mono = MultiResolutionSTFTLoss(**SMALL)
    x, y = noise(1, 2, 1024, seed=1), audio
    total, difference = mono(x.sum(1, keepdim=True), y.sum(1, keepdim=True)), mono(x[:, :1] - x[:, 1:], y[:, :1] - y[:, 1:])
    torch.testing.assert_close(loss(x, y), (total + difference) / 2)
    torch.testing.assert_close(SumAndDifferenceSTFTLoss(w_sum=0.0, w_diff=2.0, **SMALL)(x, y), difference)


def test_taps_are_in_checkpoints_and_windows_are_not():
    loss = MultiResolutionSTFTLoss(**SMALL, sample_rate=8000, perceptual_weighting=True)
    assert {key: tuple(value.shape) for key, value in loss.state_dict().items()} == {
        f"stft_losses.{index}.prefilter.fir.weight": (1, 1, 101) for index in range(2)
    }
    assert not any(parameter.requires_grad for parameter in loss.parameters())


def test_wrong_arguments():
    with pytest.raises(ConfigError, match="fft_sizes, hop_sizes and win_lengths must have the same length, got 2, 1 and 2"):
        MultiResolutionSTFTLoss(fft_sizes=[256, 64], hop_sizes=[64], win_lengths=[256, 64])
    with pytest.raises(ConfigError, match=r"^STFT loss: perceptual_weighting needs a sample_rate$"):
        MultiResolutionSTFTLoss(**SMALL, perceptual_weighting=True)
    with pytest.raises(ValueError, match="compares stereo signals, got 1 and 2 channels"):
        SumAndDifferenceSTFTLoss(**SMALL)(noise(1, 1, 512), noise(1, 2, 512))


def test_a_mel_loss_is_one_of_bands_and_forgives_what_they_blur():
    mel = STFTLoss(1024, 256, 1024, 8000, "mel", 16)
    t = torch.arange(8192) / 8000
    tone, near, far = (torch.sin(2 * torch.pi * frequency * t).view(1, 1, -1) for frequency in (3000.0, 3030.0, 2000.0))
    plain = STFTLoss(1024, 256, 1024, 8000)
    assert float(mel(near, tone)) < 0.6 * float(plain(near, tone))
    assert float(mel(far, tone)) > 3 * float(mel(near, tone))
    torch.testing.assert_close(MelSTFTLoss(8000, n_mels=16)(far, tone), mel(far, tone))


def test_a_chroma_loss_hears_no_difference_between_octaves():
    loss = STFTLoss(8192, 2048, 8192, 8000, "chroma", w_log_mag=0.0, scale_invariance=True)
    t = torch.arange(32768) / 8000
    a3, a4, d_sharp = (torch.sin(2 * torch.pi * frequency * t).view(1, 1, -1) for frequency in (220.0, 440.0, 311.13))
    assert float(loss(a3, a4)) < 0.3 * float(loss(a3, d_sharp))


def test_scale_invariance_forgives_a_gain():
    loss = STFTLoss(256, 64, 256, scale_invariance=True)
    audio = noise(1, 1, 2048)
    assert float(loss(audio, 3 * audio)) == pytest.approx(0, abs=1e-3)


def test_scales_need_to_know_the_frequencies():
    with pytest.raises(ConfigError, match=r"^STFT loss: scale 'mel' needs a sample_rate$"):
        STFTLoss(scale="mel", n_bins=8)
    with pytest.raises(ConfigError, match=r"^STFT loss: scale 'mel' needs n_bins, the number of bands$"):
        STFTLoss(sample_rate=8000, scale="mel")
    with pytest.raises(ConfigError, match=r"n_bins has 1 items, but there are 2 resolutions$"):
        MultiResolutionSTFTLoss(**SMALL, sample_rate=8000, scale="mel", n_bins=[8])
