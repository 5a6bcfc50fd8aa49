"""Signal-to-distortion ratios: the reference's number, and what counts as distortion."""

import pytest
import torch

from stable_audio_tools.training.losses.sdr import SDSDRLoss, SISDRLoss


def test_value_equals_the_reference(golden):
    case, fakes, reals = golden("si-sdr")
    assert float(SISDRLoss(**case["config"])(fakes, reals)) == pytest.approx(case["value"], rel=1e-5)


def test_noise_at_a_tenth_is_20_db():
    generator = torch.Generator().manual_seed(0)
    audio, noise = torch.randn(1, 1, 20000, generator=generator), torch.randn(1, 1, 20000, generator=generator)
    for loss in (SISDRLoss(), SDSDRLoss()):
        assert float(loss(audio + 0.1 * noise, audio)) == pytest.approx(-20, abs=0.1)
        assert torch.isfinite(loss(torch.zeros(1, 1, 100), torch.zeros(1, 1, 100)))
    assert float(SISDRLoss()(0.5 * audio + 0.05 * noise, audio)) == pytest.approx(-20, abs=0.1)
    assert float(SDSDRLoss()(0.5 * audio, audio)) == pytest.approx(0, abs=0.1), "half the signal is missing"
    assert float(SISDRLoss()(audio + 5, audio)) < -60, "an offset is forgiven"
    assert float(SISDRLoss(zero_mean=False)(audio + 5, audio)) > 10
