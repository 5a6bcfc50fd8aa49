"""Which times a training step looks at."""

import pytest
import torch

from stable_audio_tools.families import TIMESTEPS
from stable_audio_tools.sampling.timesteps import LogSNRTimesteps, UniformTimesteps

COUNT = 20_000


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("name", TIMESTEPS.names())
def test_times_lie_in_the_unit_interval_and_differ(name):
    t = TIMESTEPS.build(name)(COUNT)
    assert t.shape == (COUNT,) and t.dtype == torch.float32
    assert (t >= 0).all() and (t <= 1).all() and len(t.unique()) > COUNT / 2


@pytest.mark.parametrize("name", TIMESTEPS.names())
def test_seeded_streams_repeat(name):
    first = TIMESTEPS.build(name)(10)
    torch.manual_seed(0)
    assert torch.equal(TIMESTEPS.build(name)(10), first)


@pytest.mark.parametrize("name", TIMESTEPS.names())
def test_every_part_of_the_interval_is_looked_at(name):
    counts = torch.histc(TIMESTEPS.build(name)(COUNT), bins=10, min=0, max=1)
    assert counts.min() > 0.002 * COUNT


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
