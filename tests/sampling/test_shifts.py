"""Distribution shifts."""

import math

import pytest
import torch

from stable_audio_tools.sampling.shifts import DistributionShift

T = torch.linspace(0, 1, 101, dtype=torch.float64)


@pytest.mark.parametrize("use_sine", [False, True])
@pytest.mark.parametrize("length", [1, 256, 1000, 4096, 100_000])
def test_keeps_the_ends_and_the_order_and_moves_towards_noise(use_sine, length):
    shifted = DistributionShift(use_sine=use_sine).shift(T, length)
    assert float(shifted[0]) == 0 and float(shifted[-1]) == 1
    assert (shifted.diff() > 0).all() and (shifted[1:-1] > T[1:-1]).all()


@pytest.mark.parametrize(("length", "mu"), [(256, -0.5), (4096, -1.15), (2176, -0.825), (10, -0.5), (9999, -1.15)])
def test_equals_the_published_formula(length, mu):
    inner = T[1:-1]
    expected = 1 - math.exp(mu) / (math.exp(mu) + inner / (1 - inner))
    torch.testing.assert_close(DistributionShift().shift(T, length)[1:-1], expected)


def test_longer_sequences_get_more_noise():
    shift = DistributionShift()
    middles = [float(shift.shift(torch.tensor(0.5), length)) for length in (256, 512, 1024, 2048, 4096)]
    assert middles == sorted(set(middles))


def test_sine_follows():
    torch.testing.assert_close(DistributionShift(use_sine=True).shift(T, 700), torch.sin(DistributionShift().shift(T, 700) * math.pi / 2))


def test_no_shift_is_the_identity_and_equal_lengths_are_no_division_by_zero():
    torch.testing.assert_close(DistributionShift(base_shift=0, max_shift=0).shift(T, 700), T)
    equal = DistributionShift(min_length=100, max_length=100)
    torch.testing.assert_close(equal.shift(T, 5000), DistributionShift().shift(T, 256))


def test_its_old_name():
    assert torch.equal(DistributionShift().time_shift(T, 700), DistributionShift().shift(T, 700))
