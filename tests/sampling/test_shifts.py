"""Distribution shifts."""

import math

import pytest
import torch

from stable_audio_tools.families import SHIFTS
from stable_audio_tools.sampling.schedules import linear, log_snr, shifted
from stable_audio_tools.sampling.shifts import DistributionShift, FluxDistributionShift, LogSNRShift, NoShift

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


# ---- all of them -----------------------------------------------------------------------------------------------------------------

ALL = [SHIFTS.build(name) for name in SHIFTS.names()] + [
    DistributionShift(use_sine=True),
    FluxDistributionShift(alpha_min=2.0, alpha_max=6.0),
    FluxDistributionShift(min_length=64, max_length=64, alpha_min=3.0),
    LogSNRShift(rate=0.0),
    LogSNRShift(anchor_length=300, rate=0.5),
]
LENGTHS = torch.tensor([30.0, 256.0, 1000.0, 9000.0], dtype=torch.float64)


def test_the_shifts_there_are():
    assert SHIFTS.names() == ["flux", "full", "logsnr", "none"]


@pytest.mark.parametrize("shift", ALL)
@pytest.mark.parametrize("length", [1, 256, 1000, 100_000])
def test_each_keeps_ends_order_and_type(shift, length):
    for kind in (torch.float32, torch.float64):
        shifted_times = shift.shift(T.to(kind), length)
        assert shifted_times.dtype == kind and float(shifted_times[0]) == 0 and float(shifted_times[-1]) == 1
        assert (shifted_times.diff() >= 0).all() and (shifted_times[1:-1] > 0).all()


@pytest.mark.parametrize("shift", ALL)
def test_lengths_per_item_equal_one_after_the_other(shift):
    """Also when there are as many items as times: what is meant is said by the shapes, never guessed from sizes."""
    grids = shift.shift(T, LENGTHS[:, None])
    assert grids.shape == (4, len(T))
    for grid, length in zip(grids, LENGTHS, strict=True):
        torch.testing.assert_close(grid, shift.shift(T, int(length)))
    times = T[[10, 40, 60, 90]]
    torch.testing.assert_close(shift.shift(times, LENGTHS), grids[range(4), [10, 40, 60, 90]])


def test_flux_follows_its_formula():
    shift = FluxDistributionShift(min_length=256, max_length=4096, alpha_min=1.5, alpha_max=6.0)
    for length, alpha in ((256, 1.5), (4096, 6.0), (1024, 3.0), (10, 1.5), (10**6, 6.0)):
        torch.testing.assert_close(shift.shift(T, length), alpha * T / (1 + (alpha - 1) * T))


def test_flux_and_full_are_one_family():
    torch.testing.assert_close(
        FluxDistributionShift(alpha_min=math.exp(0.5), alpha_max=math.exp(1.15)).shift(T, 4096), DistributionShift().shift(T, 4096)
    )


def test_log_snr_is_even_between_its_ends():
    shift = LogSNRShift(anchor_length=2000, anchor_logsnr=-6.2, rate=1.0, logsnr_end=2.0)
    for length, start in ((2000, -6.2), (4000, -7.2), (500, -4.2)):
        torch.testing.assert_close(-torch.logit(shift.shift(T, length)[1:-1]), 2.0 + T[1:-1] * (start - 2.0), atol=1e-6, rtol=1e-6)


def test_no_shift_leaves_times_alone():
    assert NoShift().shift(T, 5) is T


# ---- as grids --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", ALL)
@pytest.mark.parametrize("start", [1.0, 0.9, 0.5, 0.1, 0.01])
@pytest.mark.parametrize("steps", [1, 2, 4, 50])
def test_shifted_grids_fall_strictly_from_the_start_to_zero(shift, start, steps):
    """Variations too: published grids rose at first when they began below 1."""
    times = shifted(steps, shift, 1000, start)
    assert times.shape == (steps + 1,) and float(times[0]) == pytest.approx(start) and float(times[-1]) == 0
    assert (times.diff() < 0).all()


def test_the_published_grids_of_both_versions():
    torch.testing.assert_close(shifted(50, LogSNRShift(rate=0, anchor_logsnr=-6.0), 123), log_snr(50), atol=1e-6, rtol=1e-5)
    inner = torch.sigmoid(6.2 - 8.2 * torch.arange(1, 50) / 50)
    torch.testing.assert_close(shifted(50, LogSNRShift(rate=0), 123)[1:-1], inner, atol=1e-6, rtol=1e-5)
    assert torch.equal(shifted(7, NoShift(), 5), linear(7))


@pytest.mark.parametrize("steps", [3, 9])
def test_a_grid_per_item(steps):
    lengths = torch.tensor([100, 500, 2000, 4000])  # as many as times, once
    grids = shifted(steps, DistributionShift(), lengths)
    assert grids.shape == (4, steps + 1)
    for grid, length in zip(grids, lengths, strict=True):
        torch.testing.assert_close(grid, shifted(steps, DistributionShift(), int(length)))
