"""Inversion of rectified flows: there and back again."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.inference.generation import generate_diffusion_cond
from stable_audio_tools.inference.inversion import InversionParams, invert_audio
from stable_audio_tools.models import create_model_from_config
from stable_audio_tools.sampling.run import sample

RAIN = {"prompt": "rain", "seconds_total": 2}
RATE = 0.4


def linear(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """A velocity that is linear in x: data grow by the factor exp(RATE t)."""
    assert t.shape == (len(x),)
    return RATE * x


@pytest.mark.parametrize("sigma_max", [1.0, 0.6])
def test_sampling_from_inverted_data_gives_it_back(sigma_max: float) -> None:
    data = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))
    params = {"inversion_gamma": 0.0, "inversion_sigma_max": sigma_max}
    noise = invert_audio(linear, data, inversion_params=params, disable_tqdm=True)
    torch.testing.assert_close(noise, data * math.exp(RATE * sigma_max), rtol=5e-3, atol=0)
    again = sample(linear, noise, objective="rectified_flow", steps=100, sampler="euler", sigma_max=sigma_max)
    torch.testing.assert_close(again, data, rtol=5e-3, atol=0)  # the longest step is 0.12, and Euler errs by (RATE * step)^2


def test_steps_are_those_of_the_published_grid() -> None:
    times = 1 / (1 + torch.linspace(2, -6, 11).exp())
    times[0], times[-1] = 0, 1
    seen: list[float] = []

    def network(x: torch.Tensor, t: torch.Tensor, shade: float) -> torch.Tensor:
        seen.append(float(t[0]))
        return torch.full_like(x, shade)

    noise = invert_audio(network, torch.zeros(1, 2, 4), torch.ones(1, 2, 4), {"inversion_steps": 10}, disable_tqdm=True, shade=3.0)
    torch.testing.assert_close(torch.tensor(seen), times[:-1])
    y = 0.0
    for step in times.diff().tolist():
        y += (3.0 + 0.3 * ((1.0 - y) - 3.0)) * step
    torch.testing.assert_close(noise, torch.full((1, 2, 4), y))


def test_full_pull_ignores_the_field() -> None:
    data, target = torch.zeros(1, 2, 4), torch.ones(1, 2, 4)
    params = InversionParams(inversion_gamma=1, inversion_steps=2000)
    ends = [invert_audio(field, data, target, params, disable_tqdm=True) for field in (linear, lambda x, t: x * 0 + 7)]
    torch.testing.assert_close(*ends)
    torch.testing.assert_close(ends[0], torch.full_like(data, 1 - math.exp(-1)), atol=5e-3, rtol=0)  # y' = target - y


def test_more_pull_comes_nearer_to_the_given_noise() -> None:
    data, target = torch.randn(1, 2, 4), 3 * torch.randn(1, 2, 4)
    ends = [invert_audio(linear, data, target, {"inversion_gamma": gamma}, disable_tqdm=True) for gamma in (0, 0.3, 0.9)]
    distances = [float((end - target).norm()) for end in ends]
    assert distances == sorted(distances, reverse=True)


# ---- as part of a generation -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gentle(dit_config: Any, randomise: Any) -> Any:
    """A rectified flow of small velocities, which Euler's steps follow."""
    torch.manual_seed(0)
    return randomise(create_model_from_config(dit_config(objective="rectified_flow")), std=0.1).eval()


@pytest.fixture
def tone() -> torch.Tensor:
    return 0.5 * torch.sin(2 * math.pi * 220 / 8000 * torch.arange(256))[None]


def generate(model: Any, tone: torch.Tensor | None, **options: Any) -> torch.Tensor:
    init = None if tone is None else (8000, tone)
    defaults: dict[str, Any] = {"steps": 3, "cfg_scale": 1.0, "sample_size": 256, "seed": 1, "disable_tqdm": True, "init_audio": init}
    if "conditioning_tensors" not in options:
        defaults["conditioning"] = [RAIN]
    return generate_diffusion_cond(model, **(defaults | options))


def test_the_same_conditions_give_the_audio_back(gentle: Any, tone: torch.Tensor) -> None:
    wordless = {**RAIN, "prompt": ""}
    errors = []
    for steps in (40, 160):
        params = {"inversion_gamma": 0.0, "inversion_steps": steps, "inversion_unconditional": False}
        again = generate(gentle, tone, steps=steps, conditioning=[wordless], inversion_params=params)
        errors.append(float((again[0] - tone).abs().max()))
    assert errors[1] < errors[0] < 0.05


def test_prompt_and_parameters_matter_and_nothing_is_left_behind(flow_model: Any, tone: torch.Tensor) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    params = {"inversion_steps": 5}
    made = generate(flow_model, tone, inversion_params=params)
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(made, generate(flow_model, tone, inversion_params=params, init_noise_level=0.3))  # has no effect
    others = [
        generate(flow_model, tone, inversion_params=params | other) for other in ({"inversion_gamma": 0.9}, {"inversion_sigma_max": 0.5})
    ]
    others.append(generate(flow_model, tone, inversion_params=params, conditioning=[{**RAIN, "prompt": "wind"}]))
    others.append(generate(flow_model, tone))
    assert all(not torch.equal(made, other) for other in others)


def test_without_prompt_means_an_empty_one(flow_model: Any, tone: torch.Tensor) -> None:
    seen: list[Any] = []
    hook = flow_model.conditioner.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    params = {"inversion_steps": 2, "inversion_unconditional": False, "inversion_cfg_scale": 3.0}
    batch = generate(flow_model, tone, batch_size=2, inversion_params=params)
    hook.remove()
    assert batch.shape == (2, 1, 256) and not torch.equal(batch[0], batch[1])
    assert seen == [[RAIN, RAIN], [{**RAIN, "prompt": ""}] * 2]


def test_conditions_left_out_are_those_of_training(gentle: Any, tone: torch.Tensor) -> None:
    """Sampling without the text, from noise found without the text, gives the audio back too."""
    with torch.no_grad():
        embedded = gentle.conditioner([RAIN], torch.device("cpu"))
    embedded["prompt"] = (torch.zeros_like(embedded["prompt"][0]), embedded["prompt"][1])
    params = {"inversion_gamma": 0.0, "inversion_steps": 160}
    again = generate(gentle, tone, steps=160, conditioning_tensors=embedded, inversion_params=params)
    torch.testing.assert_close(again[0], tone, atol=0.05, rtol=0)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"inversion_step": 3}, r"^inversion_params: inversion_step: unknown key; did you mean 'inversion_steps'\?$"),
        ({"inversion_steps": 0}, "^inversion_params: inversion_steps: .*greater than 0, got 0$"),
        ({"inversion_gamma": 2}, "^inversion_params: inversion_gamma: .*less than or equal to 1, got 2$"),
        ({"inversion_sigma_max": 3.0}, r"^inversion_params: inversion_sigma_max: is a time in \(0, 1\], got 3\.0$"),
        ({"inversion_cfg_scale": 3.0}, "inversion_cfg_scale: 3.0 has nothing to guide by with inversion_unconditional"),
    ],
)
def test_wrong_parameters(flow_model: Any, tone: torch.Tensor, params: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        generate(flow_model, tone, inversion_params=params)


def test_what_cannot_be_inverted(v_model: Any, flow_model: Any, tone: torch.Tensor) -> None:
    with pytest.raises(ConfigError, match="only models of objective 'rectified_flow' can be inverted, this one has 'v'"):
        generate(v_model, tone, inversion_params={})
    with pytest.raises(ConfigError, match="inversion_params: needs init_audio, the audio to invert"):
        generate(flow_model, None, inversion_params={})
    with torch.no_grad():
        embedded = flow_model.conditioner([RAIN], torch.device("cpu"))
    with pytest.raises(ConfigError, match="without inversion_unconditional, give conditioning, whose 'prompt' is left empty, not tensors"):
        generate(flow_model, tone, conditioning_tensors=embedded, inversion_params={"inversion_unconditional": False})
