"""Noise levels of the steps."""

import math

import pytest
import torch

from stable_audio_tools.sampling.schedules import linear, log_snr, polyexponential

STARTS = [1.0, 1 - 1e-6, 0.9975, 0.9, 0.5, 0.12, 0.119, 0.1, 0.03, 1e-3, 1e-6]


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 250])
@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("grid", [linear, log_snr])
def test_times_fall_strictly_from_the_start_to_zero(grid, steps, start):
    times = grid(steps, start)
    assert times.shape == (steps + 1,) and times.dtype == torch.float32 and times.device.type == "cpu"
    assert float(times[0]) == pytest.approx(start, rel=1e-6) and float(times[-1]) == 0
    assert (times.diff() < 0).all()


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 250])
@pytest.mark.parametrize(("low", "high"), [(0.01, 100.0), (0.3, 500.0), (0.01, 0.011), (1e-4, 1e-3)])
@pytest.mark.parametrize("rho", [0.5, 1.0, 3.0])
def test_noise_levels_fall_strictly_from_the_highest_over_the_lowest_to_zero(steps, low, high, rho):
    sigmas = polyexponential(steps, low, high, rho)
    assert sigmas.shape == (steps + 1,) and float(sigmas[-1]) == 0 and float(sigmas[0]) == pytest.approx(high, rel=1e-5)
    if steps > 1:
        assert float(sigmas[-2]) == pytest.approx(low, rel=1e-5)
    if rho <= 1 or steps < 250:  # with a steep curve many levels crowd at the lower end
        assert (sigmas.diff() < 0).all()


@pytest.mark.parametrize("high", [0.3, 0.01, 1e-4])
@pytest.mark.parametrize("steps", [2, 5, 100])
def test_noise_levels_fall_even_from_below_the_lowest(high, steps):
    sigmas = polyexponential(steps, 0.5, high)
    assert (sigmas.diff() < 0).all() and float(sigmas[0]) == pytest.approx(high)


def test_linear_and_exponential_spacing():
    torch.testing.assert_close(linear(4, 0.8), torch.tensor([0.8, 0.6, 0.4, 0.2, 0.0]))
    ratios = polyexponential(6)[:-1]
    torch.testing.assert_close(ratios[1:] / ratios[:-1], torch.full((5,), 1e-4 ** (1 / 5)), rtol=1e-4, atol=0)
    torch.testing.assert_close(polyexponential(3, 0.01, 100, rho=2)[1].log(), torch.tensor(0.25 * math.log(1e4) + math.log(0.01)))


@pytest.mark.parametrize("start", [1.0, 0.9, 0.5, 0.12])
@pytest.mark.parametrize("steps", [4, 50])
def test_log_snr_is_evenly_spaced_between_its_published_ends(start, steps):
    times = log_snr(steps, start)
    first = -6 if start == 1 else math.log((1 - start) / start + 1e-6)
    expected = torch.linspace(first, 2, steps + 1)[1:-1]
    torch.testing.assert_close(torch.logit(times[1:-1]), -expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("start", [0.0, -0.1, 1.1])
def test_a_flow_cannot_start_outside_of_its_time(start):
    with pytest.raises(ValueError, match=r"starts at a time in \(0, 1\], got"):
        log_snr(4, start)


def test_a_range_of_no_width_falls_all_the_same():
    assert bool((polyexponential(8, 0.01, 0.01).diff() < 0).all())
