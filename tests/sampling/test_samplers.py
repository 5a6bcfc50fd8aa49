"""Every sampler against fields whose solution is known."""

from itertools import pairwise

import pytest
import torch

from stable_audio_tools.families import SAMPLERS
from stable_audio_tools.sampling.objectives import objective
from stable_audio_tools.sampling.run import brownian_noise, sample
from stable_audio_tools.sampling.samplers.dpm_solver import sample_dpm_adaptive, sample_dpm_fast
from stable_audio_tools.sampling.samplers.dpmpp import (
    sample_dpmpp_2m,
    sample_dpmpp_2m_sde,
    sample_dpmpp_2s_ancestral,
    sample_dpmpp_3m_sde,
)
from stable_audio_tools.sampling.samplers.euler import sample_euler
from stable_audio_tools.sampling.samplers.flow_dpmpp import sample_flow_dpmpp
from stable_audio_tools.sampling.samplers.lms import lagrange_integrals, sample_lms
from stable_audio_tools.sampling.samplers.pingpong import sample_pingpong
from stable_audio_tools.sampling.samplers.rk4 import sample_rk4
from stable_audio_tools.sampling.samplers.runge_kutta import sample_dpm_2, sample_heun
from stable_audio_tools.sampling.samplers.v_ddim import sample_v_ddim, sample_v_ddim_cfgpp
from stable_audio_tools.sampling.schedules import linear, polyexponential

ALL = [(name, kind) for kind in ("v", "rectified_flow", "rf_denoiser") for name in SAMPLERS.names(objectives=kind)]
STOCHASTIC = {"dpmpp-2m-sde", "dpmpp-3m-sde", "k-dpmpp-2s-ancestral", "pingpong"}
ENDS_AT_SIGMA_MIN = {"k-dpm-fast", "k-dpm-adaptive"}  # 0.01 by default
TO_ZERO = [pair for pair in ALL if pair[0] not in ENDS_AT_SIGMA_MIN]
V_SAMPLERS = {
    "k-heun", "k-lms", "k-dpmpp-2s-ancestral", "k-dpm-2", "k-dpm-fast", "k-dpm-adaptive", "dpmpp-2m", "dpmpp-2m-sde", "dpmpp-3m-sde",
    "v-ddim", "v-ddim-cfgpp",
}  # fmt: skip
FLOW_SAMPLERS = {"euler", "rk4", "dpmpp", "pingpong"}
MEAN, SPREAD = 0.7, 0.4  # of the Gaussian that is sampled


def network(kind, denoise):
    """A network that predicts as if it saw the data ``denoise(x_t, alpha, sigma)``."""
    mixing = objective(kind)

    def predict(x, t):
        alpha, sigma = (weight[:, None, None] for weight in mixing.alpha_sigma(t.double()))
        data = denoise(x, alpha, sigma)
        return mixing.target(data, (x - alpha * data) / sigma, alpha, sigma)

    return predict


def gaussian(x, alpha, sigma):
    """Expected data, if data is N(MEAN, SPREAD)."""
    variance = alpha**2 * SPREAD**2 + sigma**2
    return MEAN + alpha * SPREAD**2 / variance * (x - alpha * MEAN)


def noise(*shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(1))


def test_the_samplers_there_are():
    assert set(SAMPLERS.names(objectives="v")) == V_SAMPLERS
    assert set(SAMPLERS.names(objectives="rectified_flow")) == set(SAMPLERS.names(objectives="rf_denoiser")) == FLOW_SAMPLERS


@pytest.mark.parametrize(("sampler", "kind"), ALL)
@pytest.mark.parametrize("steps", [1, 2, 3, 10])
def test_a_single_point_is_found_from_anywhere(sampler, kind, steps):
    point = torch.randn(1, 3, 5, dtype=torch.float64)
    tolerance = 0.05 if sampler in ENDS_AT_SIGMA_MIN else 5e-3 if sampler == "rk4" else 1e-4  # rk4 divides by a time of 1e-5, in float32
    out = sample(network(kind, lambda x, alpha, sigma: point), noise(1, 3, 5), objective=kind, steps=steps, sampler=sampler)
    torch.testing.assert_close(out, point, atol=tolerance, rtol=0)


@pytest.mark.parametrize(("sampler", "kind"), ALL)
@pytest.mark.parametrize("steps", [1, 7])
def test_reports_every_step_once_on_falling_times(sampler, kind, steps):
    seen, calls = [], []
    inner = network(kind, gaussian)

    def predict(x, t):
        assert x.shape == (2, 3, 5) and t.shape == (2,) and t[0] == t[1] and 0 < float(t[0]) <= 1
        calls.append(x)
        return inner(x, t)

    out = sample(predict, noise(2, 3, 5), objective=kind, steps=steps, sampler=sampler, on_step=seen.append)
    if sampler not in ENDS_AT_SIGMA_MIN:
        assert len(seen) == steps
    if sampler == "k-dpm-fast":
        assert len(calls) == steps  # up to three of them are one step
    assert [step.i for step in seen] == list(range(len(seen)))
    assert all(first.t > second.t > 0 for first, second in pairwise(seen))
    assert all(step.x.shape == step.denoised.shape == (2, 3, 5) for step in seen)
    in_sigma_space = SAMPLERS.part(sampler).facts["space"] == "sigma"
    for step in seen:  # the state before the step is what the network saw
        x = step.x / (1 + step.sigma**2) ** 0.5 if in_sigma_space else step.x
        assert min(float((x - call).abs().max()) for call in calls) < 1e-5
    if sampler not in {"pingpong", "rk4", "k-lms", *ENDS_AT_SIGMA_MIN}:
        torch.testing.assert_close(out, seen[-1].denoised, atol=1e-6, rtol=0)  # the last step, to 0, goes to the data


@pytest.mark.parametrize(("sampler", "kind"), ALL)
def test_seeds_repeat_and_matter_only_to_stochastic_samplers(sampler, kind):
    def run(seed):
        torch.manual_seed(seed)
        return sample(network(kind, gaussian), noise(1, 3, 5), objective=kind, steps=6, sampler=sampler)

    assert torch.equal(run(1), run(1))
    assert torch.equal(run(1), run(2)) is (sampler not in STOCHASTIC)
    assert bool(SAMPLERS.part(sampler).facts.get("stochastic")) is (sampler in STOCHASTIC)


@pytest.mark.parametrize(("sampler", "kind"), ALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_keeps_data_type_and_batch(sampler, kind, dtype):
    predict = network(kind, gaussian)
    out = sample(lambda x, t: predict(x, t).to(x.dtype), noise(3, 2, 4).to(dtype), objective=kind, steps=5, sampler=sampler)
    assert out.dtype == dtype and out.shape == (3, 2, 4) and torch.isfinite(out).all()


def test_high_noise_levels_do_not_overflow_half_precision():
    predict = network("v", gaussian)
    exact, half = (
        sample(
            lambda x, t: predict(x, t).to(x.dtype), noise(1, 2, 50).to(dtype), objective="v", steps=30, sampler="dpmpp-2m", sigma_max=1000
        )
        for dtype in (torch.float64, torch.float16)
    )
    assert (half - exact).abs().max() < 0.05


# ---- distributions -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sampler", "kind"), [pair for pair in ALL if pair[0] != "pingpong"])
def test_samples_of_a_gaussian_have_its_mean_and_spread(sampler, kind):
    torch.manual_seed(0)
    count = 20_000
    out = sample(network(kind, gaussian), noise(1, 1, count), objective=kind, steps=150, sampler=sampler)
    error = 4 * SPREAD / count**0.5
    assert abs(float(out.mean()) - MEAN) < error + 0.005
    assert abs(float(out.std()) - SPREAD) < error + 0.02  # and what 150 steps leave


# ---- order of accuracy ---------------------------------------------------------------------------------------------------------------


def errors(solve, steps):
    return [float((solve(count) - solve(None)).abs().max()) for count in steps]


def flow(x, t0, t):
    """Where the flow of the Gaussian takes x from time t0 to t."""
    deviation = [((1 - time) ** 2 * SPREAD**2 + time**2) ** 0.5 for time in (t0, t)]
    return (1 - t) * MEAN + deviation[1] / deviation[0] * (x - (1 - t0) * MEAN)


def test_euler_is_of_first_order():
    x = noise(1, 1, 50)
    predict = network("rectified_flow", gaussian)

    def solve(steps):
        return flow(x, 1.0, 0.0) if steps is None else sample_euler(lambda x, t: predict(x, t.expand(1)), x, linear(steps))

    coarse, fine = errors(solve, (100, 200))
    assert coarse / fine == pytest.approx(2, rel=0.1)


def test_euler_is_exact_on_straight_paths():
    x = noise(1, 2, 5)
    times = torch.tensor([1.0, 0.3, 0.2, 0.0])
    torch.testing.assert_close(sample_euler(lambda x, t: torch.full_like(x, 2.0), x, times), x - 2)


def test_v_ddim_is_of_first_order():
    x = noise(1, 1, 50)
    predict = network("v", gaussian)

    def solve(steps):
        return MEAN + SPREAD * x if steps is None else sample_v_ddim(lambda x, t: predict(x, t.expand(1)), x, linear(steps))

    coarse, fine = errors(solve, (100, 200))
    assert coarse / fine == pytest.approx(2, rel=0.15)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_v_ddim_redraws_as_much_noise_as_asked(eta):
    torch.manual_seed(0)
    predict = network("v", gaussian)
    out = sample_v_ddim(lambda x, t: predict(x, t.expand(1)), noise(1, 1, 20_000), linear(200), eta=eta)
    assert abs(float(out.std()) - SPREAD) < 0.03 and abs(float(out.mean()) - MEAN) < 0.03
    correlation = float(torch.corrcoef(torch.stack([out.flatten(), noise(1, 1, 20_000).flatten()]))[0, 1])
    assert correlation > 0.999 if eta == 0 else correlation < {0.5: 0.95, 1.0: 0.3}[eta]


def velocity(x, t):
    return network("rectified_flow", gaussian)(x, t.expand(1))


def test_rk4_is_of_fourth_order():
    x = noise(1, 1, 50)
    times = [torch.linspace(1.0, 0.2, count + 1, dtype=torch.float64) for count in (8, 16)]
    coarse, fine = (float((sample_rk4(velocity, x, grid) - flow(x, 1.0, 0.2)).abs().max()) for grid in times)
    assert coarse / fine > 14


def test_flow_dpmpp_is_of_second_order():
    x = noise(1, 1, 50)
    grids = [torch.sigmoid(torch.linspace(2.0, -2.0, count + 1, dtype=torch.float64)) for count in (50, 100)]
    start, end = float(grids[0][0]), float(grids[0][-1])
    coarse, fine = (
        float((sample_flow_dpmpp(velocity, x, torch.cat([grid, grid.new_zeros(1)])) - flow_end(x, start, end)).abs().max())
        for grid in grids
    )
    assert coarse / fine > 3.6


def flow_end(x, start, end):
    """The data as the network sees it after the flow from ``start`` to ``end``: what a last step to 0 does."""
    at_end = flow(x, start, end)
    return gaussian(at_end, 1 - end, end)


@pytest.mark.parametrize("solve", [sample_euler, sample_rk4, sample_flow_dpmpp])
def test_flow_samplers_are_exact_on_straight_paths(solve):
    """Constant velocity; for DPM-Solver++ the same as a single point of data."""
    x = noise(1, 2, 5)
    point = noise(1, 2, 5) * 3
    times = torch.tensor([1.0, 0.6, 0.3, 0.1, 0.0], dtype=torch.float64)
    torch.testing.assert_close(solve(lambda state, t: x - point, x, times), point, atol=1e-6, rtol=0)


@pytest.mark.parametrize("solve", [sample_euler, sample_rk4, sample_flow_dpmpp, sample_pingpong])
def test_a_grid_per_item_equals_one_item_after_the_other(solve):
    x = noise(3, 2, 5)
    times = torch.stack([torch.sigmoid(torch.linspace(-start, -2.0, 6, dtype=torch.float64)) for start in (-6.0, -5.0, -4.0)])
    times[:, -1] = 0
    torch.manual_seed(0)
    together = solve(lambda state, t: network("rectified_flow", gaussian)(state, t.flatten()), x, times)
    torch.manual_seed(0)
    draws = [torch.randn_like(x) for _ in range(5)]
    for item in range(3):
        left = [draw[item : item + 1] for draw in draws]
        if solve is sample_pingpong:
            state = x[item : item + 1]
            for t, t_next, fresh in zip(times[item], times[item, 1:], left, strict=False):
                state = (1 - t_next) * (state - t * velocity(state, t)) + t_next * fresh
            alone = state
        else:
            alone = solve(velocity, x[item : item + 1], times[item])
        torch.testing.assert_close(together[item : item + 1], alone)


def test_ddim_cfgpp_without_guidance_is_ddim_and_goes_back_along_the_unconditional():
    x, times = noise(1, 1, 50), linear(20)
    guided = network("v", gaussian)
    free = network("v", lambda x, alpha, sigma: x * 0)

    def pair(x, t):
        return guided(x, t.expand(1)), guided(x, t.expand(1))

    torch.testing.assert_close(sample_v_ddim_cfgpp(pair, x, times), sample_v_ddim(lambda x, t: guided(x, t.expand(1)), x, times))
    seen = []
    sample_v_ddim_cfgpp(lambda x, t: (guided(x, t.expand(1)), free(x, t.expand(1))), x, times, on_step=seen.append)
    for step, after in pairwise(seen):
        alpha, sigma = objective("v").alpha_sigma(torch.tensor(step.t))
        alpha_next, sigma_next = objective("v").alpha_sigma(torch.tensor(after.t))
        away = step.x * sigma + free(step.x, torch.tensor([step.t])) * alpha
        torch.testing.assert_close(after.x, step.denoised * alpha_next + away * sigma_next, atol=1e-5, rtol=1e-5)


def denoise(x, sigma):
    return gaussian(x, 1.0, sigma.double())


def test_dpmpp_2m_is_of_second_order():
    x = noise(1, 1, 50) * 10
    low, high = 0.05, 10.0

    def solve(steps):
        if steps is None:
            at_low = MEAN + (x - MEAN) * ((SPREAD**2 + low**2) / (SPREAD**2 + high**2)) ** 0.5
            return denoise(at_low, torch.tensor(low))  # what the last step does
        return sample_dpmpp_2m(denoise, x, polyexponential(steps, low, high))

    coarse, fine = errors(solve, (25, 50))
    assert coarse / fine > 3.3


def solution(x, low, high):
    """Where the probability flow of the Gaussian in sigma takes x from ``high`` to ``low``."""
    return MEAN + (x - MEAN) * ((SPREAD**2 + low**2) / (SPREAD**2 + high**2)) ** 0.5


@pytest.mark.parametrize(("sampler", "ratio"), [(sample_heun, 3.6), (sample_dpm_2, 3.5), (sample_lms, 9.0)])
def test_order_of_the_solvers_in_sigma(sampler, ratio):
    """Second order halves the step for a quarter of the error; LMS is of fourth, after a start of lower order."""
    x = noise(1, 1, 50) * 10
    coarse, fine = (
        float((sampler(denoise, x, polyexponential(steps, 0.1, 10.0)[:-1].double()) - solution(x, 0.1, 10.0)).abs().max())
        for steps in (61, 121)
    )
    assert coarse / fine > ratio


def test_ancestral_without_its_noise_is_of_second_order():
    """The drift alone, on data whose solution to it is known: ``x - MEAN`` shrinks by ``sigma_down / sigma`` to a power."""
    x, low, high = noise(1, 1, 50) * 10, 0.5, 10.0

    def shrink(x, sigma):
        return MEAN + 0.5 * (x - MEAN)

    def solve(steps):
        sigmas = polyexponential(steps, low, high)[:-1].double()
        return sample_dpmpp_2s_ancestral(shrink, x, sigmas, noise=lambda sigma, sigma_next: torch.zeros_like(x))

    # x - MEAN follows (sigma_down)^0.5, and sigma_down is sigma_next^2 / sigma: as far again as the step
    exact = MEAN + (x - MEAN) * (low / high) ** (2 * 0.5)
    coarse, fine = (float((solve(steps) - exact).abs().max()) for steps in (41, 81))
    assert coarse / fine > 3.5


def test_dpm_fast_converges_in_third_order():
    x, low, high = noise(1, 1, 50) * 10, 0.1, 10.0
    ends = torch.tensor([high, low], dtype=torch.float64)
    coarse, fine = (float((sample_dpm_fast(denoise, x, ends, steps=steps) - solution(x, low, high)).abs().max()) for steps in (62, 122))
    assert coarse / fine > 6


@pytest.mark.parametrize("steps", range(1, 14))
def test_dpm_fast_calls_the_network_as_often_as_asked_and_ends_at_the_last_level(steps):
    calls = []

    def counted(x, sigma):
        calls.append(float(sigma))
        return torch.zeros_like(x)

    out = sample_dpm_fast(counted, noise(1, 1, 5) * 10, torch.tensor([10.0, 0.1], dtype=torch.float64), steps=steps)
    assert len(calls) == steps and calls[0] == pytest.approx(10)
    torch.testing.assert_close(out, noise(1, 1, 5) * 0.1, rtol=1e-5, atol=0)  # data 0: what is left is noise of the last level


@pytest.mark.parametrize("tolerance", [1e-2, 1e-3, 1e-4])
def test_dpm_adaptive_keeps_to_its_tolerance_and_works_harder_for_a_lower_one(tolerance):
    x, ends = noise(1, 1, 50) * 10, torch.tensor([10.0, 0.1], dtype=torch.float64)
    seen = []
    out = sample_dpm_adaptive(denoise, x, ends, rtol=tolerance, atol=tolerance, on_step=seen.append)
    assert (out - solution(x, 0.1, 10.0)).abs().max() < 20 * tolerance
    assert len(seen) >= {1e-2: 5, 1e-3: 8, 1e-4: 12}[tolerance] and len(seen) < 200


def test_lms_integrates_polynomials_exactly():
    nodes = [3.0, 5.0, 8.0, 13.0]
    weights = lagrange_integrals(nodes, 3.0, 2.0)
    for power in range(4):
        exact = (2.0 ** (power + 1) - 3.0 ** (power + 1)) / (power + 1)
        assert sum(w * node**power for w, node in zip(weights, nodes, strict=True)) == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize("sampler", [sample_dpmpp_2m_sde, sample_dpmpp_3m_sde])
def test_the_stochastic_solvers_mean_is_of_second_order(sampler):
    """Without its noise, what remains is the drift of the reverse diffusion. (Three steps of 3M begin with lower orders, which stay.)"""
    x = noise(1, 1, 50) * 10
    low, high, slope = 0.5, 10.0, 0.5

    def shrink(x, sigma):
        return MEAN + slope * (x - MEAN)  # then (x - MEAN) ~ sigma^(2 (1 - slope))

    def solve(steps):
        if steps is None:
            return shrink(MEAN + (x - MEAN) * (low / high) ** (2 * (1 - slope)), low)  # what the last step does
        return sampler(shrink, x, polyexponential(steps, low, high), noise=lambda sigma, sigma_next: torch.zeros_like(x))

    coarse, fine = errors(solve, (50, 100))
    assert coarse / fine > 3.6


# ---- noise ---------------------------------------------------------------------------------------------------------------------------


def test_brownian_noise_has_unit_variance_and_independent_steps():
    torch.manual_seed(0)
    sigmas = polyexponential(6)
    source = brownian_noise(torch.zeros(1, 1, 20_000), sigmas)
    steps = torch.stack([source(a, b).flatten() for a, b in pairwise(sigmas[:-1])])
    torch.testing.assert_close(steps.std(dim=1), torch.ones(5), atol=0.03, rtol=0)
    assert (torch.corrcoef(steps) - torch.eye(5)).abs().max() < 0.04


def test_brownian_noise_is_one_path_however_many_steps():
    torch.manual_seed(0)
    coarse = brownian_noise(torch.zeros(1, 2, 5), torch.tensor([10.0, 1.0, 0.1, 0.0]))
    torch.manual_seed(0)
    fine = brownian_noise(torch.zeros(1, 2, 5), torch.tensor([10.0, 5.0, 1.0, 0.1, 0.0]))
    ten, five, one = torch.tensor([10.0, 5.0, 1.0])
    whole = coarse(ten, one) * (ten - one).sqrt()
    parts = fine(ten, five) * (ten - five).sqrt() + fine(five, one) * (five - one).sqrt()
    torch.testing.assert_close(whole, parts, atol=1e-4, rtol=1e-4)


def test_brownian_noise_takes_one_draw_from_the_global_stream():
    torch.manual_seed(0)
    brownian_noise(torch.zeros(1, 1, 4), polyexponential(3))
    after = torch.get_rng_state()
    torch.manual_seed(0)
    torch.randint(0, 2**63 - 1, [])
    assert torch.equal(torch.get_rng_state(), after)


def test_pingpong_jumps_and_mixes_fresh_noise_in():
    point = torch.full((1, 1, 5), 2.0, dtype=torch.float64)
    seen = []
    torch.manual_seed(0)
    sample(
        network("rf_denoiser", lambda x, alpha, sigma: point), noise(1, 1, 5), objective="rf_denoiser", steps=3, sampler="pingpong",
        on_step=seen.append,
    )  # fmt: skip
    torch.manual_seed(0)
    for step in seen[1:]:
        fresh = torch.randn(1, 1, 5, dtype=torch.float64)
        torch.testing.assert_close(step.x, (1 - step.t) * point + step.t * fresh, atol=1e-5, rtol=0)
