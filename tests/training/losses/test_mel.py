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
