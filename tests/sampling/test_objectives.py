"""How data and noise are mixed, and what a network predicts."""

import math

import pytest
import torch

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.families import OBJECTIVES
from stable_audio_tools.sampling.objectives import objective

NAMES = OBJECTIVES.names()
DATA, NOISE = torch.randn(2, 9, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
TIMES = torch.linspace(0, 1, 9, dtype=torch.float64)


def test_there_are_three():
    assert NAMES == ["rectified_flow", "rf_denoiser", "v"]


@pytest.mark.parametrize("name", NAMES)
def test_data_at_time_0_and_noise_at_time_1(name):
    alpha, sigma = objective(name).alpha_sigma(TIMES)
    assert float(alpha[0]) == 1 and float(sigma[0]) == 0
    assert float(alpha[-1]) == pytest.approx(0, abs=1e-12) and float(sigma[-1]) == 1
    assert (alpha.diff() < 0).all() and (sigma.diff() > 0).all()
    noised = objective(name).add_noise(DATA, NOISE, TIMES)
    torch.testing.assert_close(noised.x_t[0], DATA[0])
    torch.testing.assert_close(noised.x_t[-1], NOISE[-1])
    assert noised.t is TIMES


@pytest.mark.parametrize("name", NAMES)
def test_the_target_leads_back_to_the_data_at_every_time(name):
    noised = objective(name).add_noise(DATA, NOISE, TIMES)
    torch.testing.assert_close(objective(name).denoised(noised.x_t, noised.target, TIMES[:, None, None]), DATA)


def test_v_keeps_the_variance_and_is_the_path_s_velocity():
    v = objective("v")
    alpha, sigma = v.alpha_sigma(TIMES)
    torch.testing.assert_close(alpha.square() + sigma.square(), torch.ones_like(TIMES))
    step = 1e-6
    before, after = (v.add_noise(DATA, NOISE, TIMES + shift).x_t for shift in (-step, step))
    torch.testing.assert_close((after - before) / (2 * step), v.add_noise(DATA, NOISE, TIMES).target * math.pi / 2, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["rectified_flow", "rf_denoiser"])
def test_flows_go_straight(name):
    flow = objective(name)
    first, last = (flow.add_noise(DATA, NOISE, torch.full((9,), t, dtype=torch.float64)) for t in (0.2, 0.7))
    torch.testing.assert_close(last.x_t - first.x_t, 0.5 * first.target)
    assert torch.equal(first.target, NOISE - DATA) and torch.equal(last.target, first.target)


def test_unknown_objective():
    with pytest.raises(ConfigError, match="unknown diffusion objective 'velocity'; known: rectified_flow, rf_denoiser, v"):
        objective("velocity")
