"""Which times a training step looks at."""

import pytest
import torch

from stable_audio_tools.families import TIMESTEPS
from stable_audio_tools.sampling.timesteps import LogSNRTimesteps, UniformTimesteps

COUNT = 20_000
FEW = {"one_shot": [1.0], "denoised": [0.0], "congruent": [i / 16 for i in range(1, 17)]}  # all the times there are
SPREAD = [name for name in TIMESTEPS.names() if name not in FEW]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("name", SPREAD)
def test_times_lie_in_the_unit_interval_and_differ(name):
    t = TIMESTEPS.build(name)(COUNT)
    assert t.shape == (COUNT,) and t.dtype == torch.float32
    assert (t >= 0).all() and (t <= 1).all() and len(t.unique()) > COUNT / 2


@pytest.mark.parametrize("name", TIMESTEPS.names())
def test_seeded_streams_repeat(name):
    first = TIMESTEPS.build(name)(10)
    torch.manual_seed(0)
    assert torch.equal(TIMESTEPS.build(name)(10), first)


@pytest.mark.parametrize("name", [name for name in SPREAD if name != "logsnr_uniform"])  # which ends at sigmoid(-2)
def test_every_part_of_the_interval_is_looked_at(name):
    counts = torch.histc(TIMESTEPS.build(name)(COUNT), bins=10, min=0, max=1)
    assert counts.min() > 0.002 * COUNT


@pytest.mark.parametrize(("name", "times"), FEW.items())
def test_some_look_at_few_times(name, times):
    assert TIMESTEPS.build(name)(COUNT).unique().tolist() == times


def test_congruent_chooses_a_number_of_steps_first():
    """Of 1, 2, 4, 8 or 16 steps all begin with time 1, four of five pass one half, and only the longest knows 1/16."""
    t = TIMESTEPS.build("congruent")(COUNT)
    shares = {time: float((t == time).float().mean()) for time in (1.0, 0.5, 1 / 16)}
    halves = sum(1 / (5 * steps) for steps in (2, 4, 8, 16))
    assert shares == pytest.approx({1.0: halves + 1 / 5, 0.5: halves, 1 / 16: 1 / 80}, abs=0.01)


@pytest.mark.parametrize(("name", "highest"), [("log_snr_uniform", 5.0), ("logsnr_uniform", 2.0)])
def test_log_snr_can_be_uniform(name, highest):
    t = TIMESTEPS.build(name)(COUNT).double()
    logsnr = torch.log((1 - t) / t)
    assert float(logsnr.min()) == pytest.approx(-6, abs=0.01) and float(logsnr.max()) == pytest.approx(highest, abs=0.01)
    quarters = torch.histc(logsnr, bins=4, min=-6, max=highest) / COUNT
    torch.testing.assert_close(quarters, torch.full_like(quarters, 0.25), atol=0.02, rtol=0)


@pytest.mark.parametrize("batch", [1, 2, 8, 64])
def test_uniform_fills_every_part_once(batch):
    """64 draws, however they are cut into batches: one in each 64th."""
    sampler = UniformTimesteps()
    t = torch.cat([sampler(batch) for _ in range(64 // batch)])
    assert sorted((t * 64).long().tolist()) == list(range(64))


@pytest.mark.parametrize("drawn", [0, 1, 7, 64, 100])
def test_uniform_goes_on_exactly_where_its_state_was_taken(drawn):
    sampler = UniformTimesteps()
    if drawn:
        sampler(drawn)
    state = sampler.state_dict()
    expected = torch.cat([sampler(5), sampler(3)])
    torch.manual_seed(99)
    other = UniformTimesteps()
    other(13)
    other.load_state_dict(state)
    assert torch.equal(torch.cat([other(5), other(3)]), expected)
    assert other.state_dict() == sampler.state_dict()


@pytest.mark.parametrize("name", TIMESTEPS.names())
def test_states_of_all_kinds_can_be_loaded_back(name):
    sampler = TIMESTEPS.build(name)
    sampler.load_state_dict({})  # of a sampler that keeps none
    sampler.load_state_dict(sampler.state_dict())
    assert sampler(3).shape == (3,)


def test_building_the_uniform_sampler_takes_one_draw():
    UniformTimesteps()
    after = torch.get_rng_state()
    torch.manual_seed(0)
    torch.randint(2**31 - 1, ())
    assert torch.equal(torch.get_rng_state(), after)


def test_logit_normal():
    z = torch.logit(TIMESTEPS.build("logit_normal")(COUNT))
    assert abs(float(z.mean())) < 4 / COUNT**0.5 and abs(float(z.std()) - 1) < 4 / (2 * COUNT) ** 0.5


@pytest.mark.parametrize(("mean", "std"), [(-1.2, 2.0), (0.5, 0.3)])
def test_log_snr(mean, std):
    z = -torch.logit(LogSNRTimesteps(mean, std)(COUNT))
    assert abs(float(z.median()) - mean) < 5 * std / COUNT**0.5
    assert float(z.std()) == pytest.approx(std, rel=0.03)


def test_truncated_logit_normal_equals_rejection():
    t = TIMESTEPS.build("trunc_logit_normal")(COUNT)
    drawn = torch.sigmoid(torch.randn(4 * COUNT))
    kept = 1 - (drawn[drawn > 0.075] - 0.075) / (1 - 0.075)
    quantiles = torch.linspace(0.01, 0.99, 50)
    assert (torch.quantile(t, quantiles) - torch.quantile(kept[:COUNT], quantiles)).abs().max() < 0.01
    assert t.mean() > 0.5
