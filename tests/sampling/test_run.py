"""sample(): starting points, defaults, and what it refuses."""

import math

import pytest
import torch

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.families import SAMPLERS
from stable_audio_tools.sampling.objectives import objective
from stable_audio_tools.sampling.run import default_sampler, sample, v_denoiser
from stable_audio_tools.sampling.schedules import shifted
from stable_audio_tools.sampling.shifts import DistributionShift, LogSNRShift, NoShift

NOISE = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
DATA = torch.randn(1, 3, 5, generator=torch.Generator().manual_seed(1))
KINDS = ("v", "rectified_flow", "rf_denoiser")
ALL = [(name, kind) for kind in KINDS for name in SAMPLERS.names(objectives=kind)]


def silent(x, t):
    return torch.zeros_like(x)


@pytest.mark.parametrize(("kind", "name"), [("v", "dpmpp-2m-sde"), ("rectified_flow", "euler"), ("rf_denoiser", "pingpong")])
def test_default_samplers(kind, name):
    assert default_sampler(kind) == name
    results = []
    for sampler in (None, name):
        torch.manual_seed(0)
        results.append(sample(silent, NOISE, objective=kind, steps=4, sampler=sampler))
    assert torch.equal(*results)


def first_input(kind, **options):
    """What the network sees first, and when."""
    seen = []

    def predict(x, t):
        seen.append((x.clone(), t.clone()))
        return torch.zeros_like(x)

    sample(predict, NOISE, objective=kind, steps=4, **options)
    return seen[0]


@pytest.mark.parametrize(("sampler", "kind"), ALL)
def test_starts_from_noise_at_the_end_of_time(sampler, kind):
    x, t = first_input(kind, sampler=sampler)
    in_sigma_space = SAMPLERS.part(sampler).facts["space"] == "sigma"
    expected = 100 / math.sqrt(1 + 100**2) if in_sigma_space else 1.0
    torch.testing.assert_close(x, NOISE * expected)
    torch.testing.assert_close(t, torch.full((2,), math.atan(100) * 2 / math.pi if in_sigma_space else 1.0))


@pytest.mark.parametrize("level", [0.3, 0.8])
@pytest.mark.parametrize(
    ("sampler", "kind", "mix"),
    [
        ("v-ddim", "v", lambda s: (math.cos(s * math.pi / 2), math.sin(s * math.pi / 2))),
        ("euler", "rectified_flow", lambda s: (1 - s, s)),
        ("pingpong", "rf_denoiser", lambda s: (1 - s, s)),
        ("dpmpp-2m", "v", lambda s: (1 / math.sqrt(1 + s * s), s / math.sqrt(1 + s * s))),
    ],
)
def test_starts_from_data_and_noise_mixed_at_the_level_asked_for(sampler, kind, mix, level):
    x, t = first_input(kind, sampler=sampler, init=DATA, sigma_max=level)
    alpha, sigma = mix(level)
    torch.testing.assert_close(x, DATA * alpha + NOISE * sigma)
    torch.testing.assert_close(t, torch.full((2,), math.atan(level) * 2 / math.pi if sampler == "dpmpp-2m" else level))


@pytest.mark.parametrize(("sampler", "kind"), ALL)
def test_no_noise_gives_the_data_back(sampler, kind):
    out = sample(lambda x, t: pytest.fail("called"), NOISE, objective=kind, steps=4, sampler=sampler, init=DATA, sigma_max=0)
    assert torch.equal(out, DATA.expand(2, 3, 5))
    out += 1
    assert not torch.equal(out[:1], DATA)  # a copy


@pytest.mark.parametrize(("sampler", "kind"), ALL)
def test_a_little_noise_changes_little(sampler, kind):
    """A network that knows the data: whatever the noise level, it comes back."""
    from stable_audio_tools.sampling.objectives import objective

    mixing = objective(kind)

    def predict(x, t):
        alpha, sigma = (weight[:, None, None] for weight in mixing.alpha_sigma(t))
        return mixing.target(DATA, (x - alpha * DATA) / sigma, alpha, sigma)

    out = sample(predict, NOISE, objective=kind, steps=4, sampler=sampler, init=DATA, sigma_max=0.02)
    left = 0.03 if SAMPLERS.part(sampler).facts["grid"] == "ends" else 1e-4  # these end at the last noise level, not at 0
    torch.testing.assert_close(out, DATA.expand(2, 3, 5), atol=left, rtol=0)


@pytest.mark.parametrize("sampler", SAMPLERS.names(objectives="v", space="sigma"))
@pytest.mark.parametrize("level", [0.01, 0.003])
def test_less_noise_than_the_last_level_still_falls(sampler, level):
    """Little noise on given data: the grid ends lower, instead of rising to ``sigma_min`` first."""
    seen = []
    out = sample(lambda x, t: x * 0, NOISE, objective="v", steps=4, sampler=sampler, init=DATA, sigma_max=level, on_step=seen.append)
    levels = [step.sigma for step in seen]
    assert levels[0] == pytest.approx(level, rel=1e-4) and levels == sorted(levels, reverse=True)
    assert (out - DATA).abs().max() < 8 * level


@pytest.mark.parametrize(("kind", "sampler"), [(kind, name) for kind in KINDS for name in SAMPLERS.names(objectives=kind)])
def test_every_sampler_reports_times_and_noise_levels_that_belong_together(kind, sampler):
    """``x`` mixes data and noise as time and level say; in sigma space the data has weight 1."""
    seen = []
    is_sigma = SAMPLERS.part(sampler).facts.get("space") == "sigma"
    sample(lambda x, t: x * 0, NOISE, objective=kind, steps=4, sampler=sampler, sigma_max=5.0 if is_sigma else 1.0, on_step=seen.append)
    for step in seen:
        alpha, sigma = (float(weight) for weight in objective(kind).alpha_sigma(torch.tensor(step.t)))
        assert 0 <= step.t <= 1
        assert step.sigma == pytest.approx(sigma / alpha if is_sigma else sigma, rel=1e-4)
    assert [step.t for step in seen] == sorted((step.t for step in seen), reverse=True)


def test_times_above_1_count_as_1():
    assert torch.equal(*(sample(silent, NOISE, objective="v", steps=4, sampler="v-ddim", sigma_max=level) for level in (1.0, 80.0)))


def test_no_gradient_is_kept():
    weight = torch.ones(1, requires_grad=True)
    assert not sample(lambda x, t: x * weight, NOISE, objective="v", steps=2, sampler="v-ddim").requires_grad


def test_v_denoiser_undoes_its_change_of_variables():
    """x = data + sigma noise: with the exact v of that pair, the data."""
    for sigma in (0.01, 1.0, 300.0):
        level = torch.tensor(sigma)
        alpha, share = 1 / math.sqrt(1 + sigma**2), sigma / math.sqrt(1 + sigma**2)
        denoised = v_denoiser(lambda x, t: alpha * NOISE - share * DATA)(DATA + sigma * NOISE, level)  # noqa: B023
        torch.testing.assert_close(denoised, DATA.expand(2, 3, 5), atol=1e-3, rtol=1e-4)


def test_a_sampler_of_the_users_own(tmp_path, monkeypatch):
    (tmp_path / "my_samplers.py").write_text(
        "from stable_audio_tools.families import SAMPLERS\n"
        "@SAMPLERS.register('mine')\n"
        "def sample_mine(predict, x, times, *, on_step):\n"
        "    for t, t_next in zip(times, times[1:]):\n"
        "        x = x + (t_next - t) * predict(x, t)\n"
        "    return x\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    out = sample(lambda x, t: torch.ones_like(x), NOISE, objective="rectified_flow", steps=5, sampler="my_samplers:sample_mine")
    torch.testing.assert_close(out, NOISE - 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampler": "euler"}, "sampler 'euler' cannot be used with objective 'v'; use one of .*dpmpp-2m.*v-ddim"),
        ({"sampler": "pingpong", "objective": "v"}, "'pingpong' cannot be used with objective 'v'"),
        (
            {"sampler": "v-ddim", "objective": "rf_denoiser"},
            "'v-ddim' cannot be used with objective 'rf_denoiser'; use one of dpmpp, euler, pingpong, rk4",
        ),
        ({"sampler": "dpm++"}, r"unknown sampler 'dpm\+\+'; did you mean 'dpmpp'"),
        ({"objective": "velocity"}, "unknown diffusion objective 'velocity'"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"sigma_min": 0.0}, "need 0 < sigma_min <= sigma_max, got 0.0 and 100.0"),
        ({"sigma_min": 2.0, "sigma_max": 1.0}, "need 0 < sigma_min <= sigma_max, got 2.0 and 1.0"),
        ({"sigma_max": 0.0}, "need 0 < sigma_min <= sigma_max, got 0.01 and 0.0"),
        ({"rho": 30.0}, "4 noise levels from 100.0 to 0.01 with rho 30.0: some are equal in float32; take a wider range, fewer steps"),
        ({"sampler": "v-ddim", "sigma_max": 0.0}, "sigma_max must be positive, got 0.0"),
        ({"objective": "rectified_flow", "sigma_max": -1.0, "init": DATA}, "sigma_max must be positive, got -1.0"),
        ({"sampler": "no_such_package_:thing"}, "cannot read module 'no_such_package_'"),
    ],
)
def test_what_it_refuses(options, message):
    with pytest.raises(ConfigError, match=message):
        sample(silent, NOISE, **{"objective": "v", "steps": 4, **options})


# ---- shifted grids ---------------------------------------------------------------------------------------------------------------------


def times_seen(**options):
    seen = []

    def predict(x, t):
        seen.append(t.clone())
        return torch.zeros_like(x)

    sample(predict, NOISE, **{"objective": "rectified_flow", "steps": 4, "sampler": "euler", **options})
    return torch.stack(seen)


def test_a_shift_replaces_the_samplers_grid_and_goes_by_the_length():
    times = times_seen(shift=DistributionShift(), length=1000)
    torch.testing.assert_close(times, shifted(4, DistributionShift(), 1000)[:-1, None].expand(-1, 2))
    torch.testing.assert_close(times_seen(shift=DistributionShift()), times_seen(shift=DistributionShift(), length=5))  # L is 5
    assert float(times_seen(shift=LogSNRShift(), sigma_max=0.4).max()) == pytest.approx(0.4)


def test_each_item_has_its_own_times_when_lengths_differ():
    lengths = torch.tensor([300, 3000])
    torch.testing.assert_close(times_seen(shift=DistributionShift(), length=lengths), shifted(4, DistributionShift(), lengths)[:, :-1].T)


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS.names(objectives="rectified_flow") if name != "pingpong"])
def test_a_batch_of_lengths_equals_one_item_after_the_other(sampler):
    def predict(x, t):
        return torch.sin(3 * x) * t.to(x.dtype)[:, None, None]

    options = {"objective": "rectified_flow", "steps": 5, "sampler": sampler, "shift": DistributionShift()}
    together = sample(predict, NOISE, length=torch.tensor([300, 3000]), **options)
    for item, length in enumerate((300, 3000)):
        torch.testing.assert_close(together[item : item + 1], sample(predict, NOISE[item : item + 1], length=length, **options))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_times_per_item_keep_the_data_type(dtype):
    out = sample(silent, NOISE.to(dtype), objective="rectified_flow", steps=3, shift=DistributionShift(), length=torch.tensor([300, 3000]))
    assert out.dtype == dtype


def test_shared_times_are_float32_on_the_cpu():
    assert times_seen().dtype == torch.float32
    assert times_seen(shift=DistributionShift(), length=torch.tensor([300, 3000])).dtype == torch.float32


def test_options_reach_the_sampler():
    torch.manual_seed(0)
    exact, stochastic = (sample(silent, NOISE, objective="v", steps=4, sampler="v-ddim", options={"eta": eta}) for eta in (0.0, 1.0))
    assert not torch.allclose(exact, stochastic)


def test_a_sampler_that_needs_both_predictions_gets_them():
    calls = []

    def pair(x, t):
        calls.append(t)
        return torch.zeros_like(x), torch.ones_like(x)

    both = sample(silent, NOISE, objective="v", steps=4, sampler="v-ddim-cfgpp", predict_pair=pair)
    assert len(calls) == 4
    assert not torch.allclose(both, sample(silent, NOISE, objective="v", steps=4, sampler="v-ddim-cfgpp"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampler": "dpmpp-2m", "shift": NoShift()}, "'dpmpp-2m' has a grid of noise levels, which a distribution shift"),
        (
            {"sampler": "v-ddim", "shift": NoShift(), "length": torch.tensor([1, 2])},
            "'v-ddim' has one grid for the whole batch, not one per item; none can",
        ),
        ({"sampler": "v-ddim", "options": {"etta": 1.0}}, "etta: unknown key; did you mean 'eta'"),
        ({"sampler": "k-dpm-adaptive", "options": {"steps": 3}}, "steps: unknown key; allowed: rtol, atol, first_step"),
    ],
)
def test_what_it_refuses_about_grids_and_options(options, message):
    with pytest.raises(ConfigError, match=message):
        sample(silent, NOISE, **{"objective": "v", "steps": 4, **options})
