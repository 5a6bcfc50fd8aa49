"""The constant-Q transform: what it reads of tones, and that octaves agree with filters of their own length."""

import math

import pytest
import torch

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.training.discriminators.cqt import ConstantQ


def tone(frequency, length=8192):
    return torch.sin(2 * math.pi * frequency * torch.arange(length, dtype=torch.float64)).float().view(1, 1, -1)


@pytest.mark.parametrize("index", [0, 7, 20, 35, 47])
def test_a_full_scale_tone_reads_one_in_its_bin_in_every_octave(index):
    transform = ConstantQ(hop_length=64, num_octaves=4, bins_per_octave=12)
    levels = transform(tone(float(transform.frequencies()[index])))[0, 0].abs()[:, 40:-40].mean(dim=1)
    assert int(levels.argmax()) == index
    assert float(levels[index]) == pytest.approx(1, abs=0.01)
    far = [level for other, level in enumerate(levels.tolist()) if abs(other - index) > 6]
    assert max(far) < 0.03


def test_decimated_octaves_equal_filters_at_the_full_rate():
    transform = ConstantQ(hop_length=32, num_octaves=3, bins_per_octave=8)
    audio = torch.randn(1, 1, 4096, generator=torch.Generator().manual_seed(0))
    frequency = float(transform.frequencies()[3])  # of the lowest octave
    length = 1 / (2 ** (1 / 8) - 1) / frequency
    t = torch.arange(-300, 301)
    window = torch.cos(math.pi * (t / length).clamp(-0.5, 0.5)).square()
    phase = 2 * math.pi * frequency * t
    kernel = 2 / window.sum() * torch.stack([window * phase.cos(), -window * phase.sin()])[:, None]
    real, imaginary = torch.nn.functional.conv1d(torch.nn.functional.pad(audio, (300, 300)), kernel, stride=32)[0]
    ours = transform(audio)[0, 0, 3, 10:-10]
    torch.testing.assert_close(ours, torch.complex(real, imaginary)[10:-10], atol=3e-3, rtol=0)


def test_shape_and_gradient():
    transform = ConstantQ(hop_length=16, num_octaves=3, bins_per_octave=4)
    audio = torch.randn(2, 2, 500, requires_grad=True)
    spectrum = transform(audio)
    assert spectrum.shape == (2, 2, 12, 32)
    spectrum.abs().sum().backward()
    assert audio.grad is not None and bool((audio.grad != 0).all())


def test_a_hop_that_cannot_be_halved_for_every_octave():
    with pytest.raises(ConfigError, match=r"the hop length must be a multiple of 256, which is half of 2 to the 9 octaves, got 128$"):
        ConstantQ(128, 9, 24)
