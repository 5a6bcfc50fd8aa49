"""sample(): starting points, defaults, and what it refuses."""

import math

import pytest
import torch

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.families import SAMPLERS
from stable_audio_tools.sampling.run import default_sampler, sample, v_denoiser

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
    torch.testing.assert_close(out, DATA.expand(2, 3, 5), atol=1e-4, rtol=0)


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
            "'v-ddim' cannot be used with objective 'rf_denoiser'; use one of euler, pingpong",
        ),
        ({"sampler": "dpm++"}, r"unknown sampler 'dpm\+\+'; known: dpmpp-2m, "),
        ({"objective": "velocity"}, "unknown diffusion objective 'velocity'"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"sigma_min": 0.0}, "need 0 < sigma_min <= sigma_max, got 0.0 and 100.0"),
        ({"sigma_min": 2.0, "sigma_max": 1.0}, "need 0 < sigma_min <= sigma_max, got 2.0 and 1.0"),
        ({"sigma_max": 0.0}, "need 0 < sigma_min <= sigma_max, got 0.01 and 0.0"),
        ({"sigma_min": 0.5, "sigma_max": 0.5}, "4 noise levels from 0.5 to 0.5 with rho 1.0: some are equal"),
        ({"rho": 30.0}, "4 noise levels from 100.0 to 0.01 with rho 30.0: some are equal in float32; take a wider range, fewer steps"),
        ({"sampler": "v-ddim", "sigma_max": 0.0}, "sigma_max must be positive, got 0.0"),
        ({"objective": "rectified_flow", "sigma_max": -1.0, "init": DATA}, "sigma_max must be positive, got -1.0"),
        ({"sampler": "no_such_package_:thing"}, "cannot read module 'no_such_package_'"),
    ],
)
def test_what_it_refuses(options, message):
    with pytest.raises(ConfigError, match=message):
        sample(silent, NOISE, **{"objective": "v", "steps": 4, **options})
