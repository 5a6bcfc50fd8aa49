"""Differentiable resampling: tones stay tones, constants constants, and gradients come through."""

import math

import pytest
import torch

from stable_audio_tools.audio import resample
from stable_audio_tools.training.losses.resampling import SincResample


@pytest.mark.parametrize(("before", "after"), [(44100, 16000), (48000, 16000), (8000, 16000), (22050, 16000), (4, 1)])
def test_a_tone_below_both_limits_stays_what_it_is(before, after):
    length = 4096
    frequency = 0.3 * min(before, after)  # Hz
    tone, wanted = (torch.sin(2 * math.pi * frequency / rate * torch.arange(length)) for rate in (before, after))
    ours = SincResample(before, after)(tone)
    assert ours.shape[-1] == math.ceil(length * after / before)
    middle = slice(200, min(ours.shape[-1], length) - 200)
    torch.testing.assert_close(ours[middle], wanted[middle], atol=3e-3, rtol=0)


def test_it_agrees_with_the_resampler_of_files():
    noise = torch.randn(2, 8192, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.avg_pool1d(noise, 9, 1, 4)
    middle = slice(200, 2500)
    ours, theirs = SincResample(44100, 16000)(smooth), resample(smooth, 44100, 16000)
    assert ours.shape == theirs.shape
    assert float((ours - theirs)[..., middle].std()) < 0.05 * float(theirs.std())


def test_what_is_too_high_is_removed_and_a_constant_kept():
    down = SincResample(48000, 16000)
    tone = torch.sin(2 * math.pi * 12000 / 48000 * torch.arange(4096))
    assert float(down(tone)[200:-200].abs().max()) < 2e-3
    torch.testing.assert_close(down(torch.ones(4096))[100:-100], torch.ones(1366 - 200))


def test_gradients_and_shapes():
    audio = torch.randn(2, 3, 100, requires_grad=True)
    out = SincResample(3, 2)(audio)
    assert out.shape == (2, 3, 67)
    out.square().sum().backward()
    assert bool((audio.grad != 0).all())
    assert SincResample(16000, 16000)(audio) is audio
