"""Mel losses: the reference's number, and properties."""

import pytest
import torch

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.training.losses.mel import MelSpectrogramLoss


def test_value_equals_the_reference(golden):
    case, fakes, reals = golden("mrmel")
    loss = MelSpectrogramLoss(sample_rate=case["sample_rate"], **case["config"])
    assert float(loss(reals, fakes)) == pytest.approx(case["value"], rel=1e-5)


def test_a_gain_is_a_distance_of_logarithms():
    loss = MelSpectrogramLoss(8000, [8], [256], mag_weight=0.0)
    audio = torch.randn(1, 2, 2048, generator=torch.Generator().manual_seed(0))
    assert float(loss(audio, audio)) == 0
    assert float(loss(audio, 10 * audio)) == pytest.approx(2, rel=1e-4), "one decade, squared"
    assert float(MelSpectrogramLoss(8000, [8, 16], [256, 512], mag_weight=0.0)(audio, 10 * audio)) == pytest.approx(4, rel=1e-4)


def tone(hz):
    return torch.sin(2 * torch.pi * hz * torch.arange(4096) / 8000)[None, None]


def test_bands_can_leave_frequencies_out():
    """Each resolution by itself; the recipe of the Descript Audio Codec writes 0 and null."""
    every = MelSpectrogramLoss(8000, [8, 8], [256, 512])
    same = MelSpectrogramLoss(8000, [8, 8], [256, 512], mel_fmin=[0, 0], mel_fmax=[None, None])
    low, high = tone(300), tone(3000)
    assert torch.equal(every(low, high), same(low, high))
    only_low = MelSpectrogramLoss(8000, [8], [512], mel_fmax=[1000.0], log_weight=0.0)
    only_high = MelSpectrogramLoss(8000, [8], [512], mel_fmin=[2000.0], log_weight=0.0)
    silence = torch.zeros_like(low)
    assert float(only_low(low, silence)) > 100 * float(only_low(high, silence))
    assert float(only_high(high, silence)) > 100 * float(only_high(low, silence))
    with pytest.raises(ConfigError, match=r"^loss 'mel': mel_fmin and mel_fmax need a number for each of the 2 n_mels$"):
        MelSpectrogramLoss(8000, [8, 8], [256, 512], mel_fmax=[1000.0])
    with pytest.raises(ConfigError, match=r"^mel scale: bands lie between 0 and 4000 Hz, got 0 to 5000$"):
        MelSpectrogramLoss(8000, [8], [256], mel_fmax=[5000.0])


def test_silence_gives_finite_losses_and_gradients():
    audio = torch.zeros(1, 1, 1024, requires_grad=True)
    value = MelSpectrogramLoss(8000, [8], [256])(audio, torch.zeros(1, 1, 1024))
    value.backward()
    assert value.item() == 0 and torch.isfinite(audio.grad).all()


def test_wrong_resolutions():
    with pytest.raises(ConfigError, match=r"n_mels and window_lengths must have the same length, got 1 and 2$"):
        MelSpectrogramLoss(8000, [8])
    with pytest.raises(ConfigError, match=r"mel scale: 80 bands are more than the 33 frequencies of fft size 64$"):
        MelSpectrogramLoss(8000, [80], [64])
