"""PESQ: the one message where its package is missing, and sane values where it is there."""

import sys

import pytest
import torch

from stable_audio_tools.errors import MissingExtraError
from stable_audio_tools.training.losses.pesq import PESQMetric


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "pesq", None)
    with pytest.raises(
        MissingExtraError, match=r"pesq is needed for the validation metric 'pesq' .* pip install \"stable-audio-tools\[pesq\]\"$"
    ):
        PESQMetric(16000)


def test_less_noise_is_better():
    pytest.importorskip("pesq")
    generator = torch.Generator().manual_seed(0)
    t = torch.arange(24000) / 16000
    speech = (sum(torch.sin(2 * torch.pi * 120 * k * t) / k for k in range(1, 20)) * (torch.sin(2 * torch.pi * 3 * t) > 0)).view(1, 1, -1)
    speech = 0.1 * speech
    noise = 0.05 * torch.randn(1, 1, 24000, generator=generator)
    metric = PESQMetric(16000)
    values = [float(metric(speech + amount * noise, speech)) for amount in (0.0, 0.1, 1.0)]
    assert 4.7 > values[0] > values[1] > values[2] > 1
    assert bool(metric(torch.zeros(1, 1, 24000), torch.zeros(1, 1, 24000)).isnan())
    assert bool(metric(speech[..., :100], speech[..., :100]).isnan()), "too short to judge"
