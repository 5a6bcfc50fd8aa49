"""generate_diffusion_cond: seeds, batches, negative prompts, init audio, and what it leaves behind: nothing."""

from __future__ import annotations

import logging
import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from stable_audio_tools.errors import AudioError, ConfigError, DataError
from stable_audio_tools.inference.generation import encode_init_audio, generate_diffusion_cond

RAIN, WIND = {"prompt": "rain", "seconds_total": 2}, {"prompt": "wind", "seconds_total": 5}


def generate(model: Any, **options: Any) -> torch.Tensor:
    defaults: dict[str, Any] = {"steps": 3, "cfg_scale": 3.0, "sample_size": 256, "seed": 1, "disable_tqdm": True}
    if "conditioning_tensors" not in options:
        defaults["conditioning"] = [RAIN]
    return generate_diffusion_cond(model, **(defaults | options))


@torch.no_grad()
def embed(model: Any, metadata: dict[str, Any]) -> Any:
    return model.conditioner([metadata], torch.device("cpu"))


@pytest.fixture(params=["v_model", "flow_model"])
def model(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


def test_audio_has_the_length_asked_for(model: Any) -> None:
    assert generate(model).shape == (1, 1, 256)
    assert generate(model, sample_size=256 + 7).shape == (1, 1, 256)  # rounded down to the model's step of 8 samples
    assert generate(model, batch_size=3).shape == (3, 1, 256)


def test_the_seed_decides(model: Any) -> None:
    assert torch.equal(generate(model), generate(model))
    assert not torch.equal(generate(model), generate(model, seed=2))
    np.random.seed(0)
    first = generate(model, seed=-1)
    assert not torch.equal(first, generate(model, seed=-1))
    np.random.seed(0)
    assert torch.equal(first, generate(model, seed=-1))


def test_noise_is_drawn_right_after_seeding(flow_model: Any) -> None:
    """The drop-in random stream: other programs' seeds give the same sounds."""
    torch.manual_seed(11)
    noise = torch.randn(2, 8, 32)
    seen: list[torch.Tensor] = []
    generate(flow_model, seed=11, batch_size=2, steps=1, callback=lambda step: seen.append(step["x"]))
    assert torch.equal(seen[0], noise)


def test_generators_and_settings_are_as_before(model: Any) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    matmul: Any = torch.backends.cuda.matmul
    flags = (matmul.allow_tf32, torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark)
    torch.manual_seed(5)
    audio = generate(model, sampler_type=None)
    assert torch.equal(torch.rand(3), expected)
    assert (matmul.allow_tf32, torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark) == flags
    assert not audio.requires_grad
    assert torch.is_grad_enabled()


def test_an_error_leaves_nothing_behind_either(model: Any) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)

    def fail(step: dict[str, Any]) -> None:
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        generate(model, callback=fail)
    assert torch.equal(torch.rand(3), expected)


def test_the_first_of_a_batch_is_as_alone(flow_model: Any) -> None:
    """Clips of a batch differ in noise and conditions only: the first noise is the one that a batch of one draws."""
    batch = generate(flow_model, conditioning=[RAIN, WIND], batch_size=2)
    torch.testing.assert_close(batch[:1], generate(flow_model), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(batch[:1], batch[1:], atol=1e-2)


def test_one_dictionary_serves_all(model: Any) -> None:
    expected = generate(model, conditioning=[RAIN, RAIN], batch_size=2)
    assert torch.equal(generate(model, conditioning=[RAIN], batch_size=2), expected)
    assert torch.equal(generate(model, conditioning=RAIN, batch_size=2), expected)


def test_conditions_may_be_given_embedded(model: Any) -> None:
    embedded = embed(model, RAIN)
    torch.testing.assert_close(generate(model, conditioning_tensors=embedded), generate(model))


def test_prompts_matter_and_guidance_makes_them_matter_more(model: Any) -> None:
    def distance(scale: float) -> float:
        return float(
            (generate(model, cfg_scale=scale) - generate(model, cfg_scale=scale, conditioning=[{**RAIN, "prompt": "wind"}])).norm()
        )

    assert 0 < distance(1.0) < distance(4.0)


def test_negative_prompts_push_away(model: Any) -> None:
    plain = generate(model)
    negative = generate(model, negative_conditioning=[{**RAIN, "prompt": "noise"}])
    assert not torch.equal(plain, negative)
    embedded = embed(model, {**RAIN, "prompt": "noise"})
    torch.testing.assert_close(negative, generate(model, negative_conditioning_tensors=embedded))
    unguided = generate(model, cfg_scale=1.0)
    assert torch.equal(unguided, generate(model, cfg_scale=1.0, negative_conditioning=[{**RAIN, "prompt": "noise"}]))
    itself = generate(model, negative_conditioning=[RAIN], cfg_scale=3.0)  # guided from a prompt to the same one: nowhere
    torch.testing.assert_close(itself, unguided, atol=1e-4, rtol=1e-4)


def test_latents_are_what_is_decoded(model: Any) -> None:
    latents = generate(model, return_latents=True)
    assert latents.shape == (1, 8, 32)
    assert torch.equal(model.pretransform.decode(latents), generate(model))


def test_a_callback_sees_every_step(model: Any) -> None:
    steps: list[dict[str, Any]] = []
    generate(model, steps=4, callback=steps.append)
    assert [step["i"] for step in steps] == [0, 1, 2, 3]
    assert set(steps[0]) == {"i", "t", "sigma", "x", "denoised"}
    assert all(step["x"].shape == step["denoised"].shape == (1, 8, 32) for step in steps)
    assert all(float(a["t"]) > float(b["t"]) for a, b in pairwise(steps))


# ---- starting from audio -------------------------------------------------------------------------------------------------------


def tone(num_samples: int, rate: int, channels: int = 1) -> torch.Tensor:
    return 0.5 * torch.sin(2 * math.pi * 220 / rate * torch.arange(num_samples)).repeat(channels, 1)


def test_init_audio_without_noise_comes_back(model: Any) -> None:
    audio = tone(256, 8000)
    torch.testing.assert_close(generate(model, init_audio=(8000, audio), init_noise_level=0.0)[0], audio)


def test_more_noise_keeps_less(model: Any) -> None:
    audio = tone(256, 8000)
    levels = (0.01, 0.3, 1.0) if model.diffusion_objective == "rectified_flow" else (0.02, 1.0, 80.0)
    made = [generate(model, init_audio=(8000, audio), init_noise_level=level)[0] for level in levels]
    distances = [float((result - audio).norm()) for result in made]
    assert distances == sorted(distances)
    assert distances[0] < 0.2 * distances[2]


def test_every_clip_of_a_batch_starts_from_the_same_audio(model: Any) -> None:
    batch = generate(model, init_audio=(8000, tone(256, 8000)), init_noise_level=0.02, batch_size=2)
    torch.testing.assert_close(batch[0], batch[1], atol=0.2, rtol=0)
    assert not torch.equal(batch[0], batch[1])


@pytest.mark.parametrize("channels", [1, 2])
def test_init_audio_may_have_any_rate_length_and_channels(v_model: Any, channels: int) -> None:
    long = encode_init_audio(v_model, (16000, tone(4000, 16000, channels)), 512, torch.device("cpu"))
    short = encode_init_audio(v_model, (8000, tone(100, 8000, channels)), 512, torch.device("cpu"))
    assert long.shape == short.shape == (1, 8, 64)
    decoded = v_model.pretransform.decode(long)[0]
    torch.testing.assert_close(decoded[:, 50:450], tone(512, 8000)[:, 50:450], atol=0.01, rtol=0)
    assert float(v_model.pretransform.decode(short)[0, :, 100:].abs().max()) == 0  # padded with silence


# ---- what it refuses -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"conditioning": [RAIN, WIND]}, "conditioning has 2 dictionaries, but batch_size is 1; give one for all, or one per clip"),
        ({"conditioning": [RAIN, WIND], "batch_size": 3}, "conditioning has 2 dictionaries, but batch_size is 3; "),
        ({"conditioning": []}, "conditioning has 0 dictionaries, but batch_size is 1; "),
        ({"negative_conditioning": [RAIN, WIND]}, "negative_conditioning has 2 dictionaries, but batch_size is 1; "),
        ({"conditioning": None}, r"nothing to generate from: give conditioning \(a list of dictionaries\) or conditioning_tensors"),
        (
            {"conditioning": [{"prompt": "x"}]},
            "item 0 of the batch has no 'seconds_total', which the model is conditioned on; it has: prompt",
        ),
        ({"conditioning_tensors": {}}, "the model is conditioned on 'prompt', 'seconds_total', which is missing; given: none"),
        ({"sample_size": 7}, "sample_size must be at least 8 samples for this model, got 7"),
        ({"steps": 0}, "steps must be a whole number and at least 1, got 0"),
        ({"steps": 2.5}, r"steps must be a whole number and at least 1, got 2\.5"),
        ({"steps": "2"}, "steps must be a whole number and at least 1, got '2'"),
        ({"sample_size": 256.0}, r"sample_size must be a whole number and at least 1, got 256\.0"),
        ({"batch_size": 0}, "batch_size must be a whole number and at least 1, got 0"),
        ({"seed": None}, "seed must be a whole number, or -1 to draw one, got None"),
        ({"seed": 1.5}, r"seed must be a whole number, or -1 to draw one, got 1\.5"),
        ({"sampler": "dpmpp-2m"}, r"unknown option 'sampler'; did you mean 'sampler_type'\?"),
        ({"sigma_mim": 3}, r"unknown option 'sigma_mim'; did you mean 'sigma_min'\?"),
        ({"bananas": 3}, "unknown option 'bananas'; known: .*cfg_interval, .*scale_phi, sigma_max, sigma_min"),
        ({"rescale_cfg": True}, "unknown option 'rescale_cfg'"),
        ({"sigma_max": "3"}, "sigma_max must be a number, got '3'"),
        ({"scale_phi": "a"}, "scale_phi must be a number, got 'a'"),
        ({"sampler_type": 3}, "sampler_type must be the name of a sampler, got 3"),
        ({"cfg_interval": 5}, r"cfg_interval must be a pair of noise levels \(low, high\), got 5"),
        ({"cfg_interval": (1, 0)}, r"cfg_interval must be a pair .*, got \(1, 0\)"),
        ({"conditioning": [RAIN | {"prompt": None}]}, "conditioner 'byte_text': expected a text, got None"),
        ({"init_audio": torch.zeros(1, 9)}, r"init_audio is a pair \(sample rate in Hz, audio \(C, T\)\), got Tensor"),
        ({"init_audio": (torch.zeros(1, 9), 8000)}, r"init_audio is a pair \(sample rate in Hz, audio \(C, T\)\), got Tensor, int"),
        ({"init_audio": (8000, torch.full((1, 9), math.nan))}, "init_audio holds NaN or infinite samples"),
        (
            {"init_audio": (8000, torch.zeros(2, 1, 9)), "batch_size": 2},
            r"init_audio is one clip \(C, T\) for the whole batch, got shape \(2, 1, 9\)",
        ),
        ({"seed": -2}, "seed must lie between 0 and 18446744073709551615, or be -1 to draw one, got -2"),
        ({"seed": 2**64}, "seed must lie between 0 and 18446744073709551615, or be -1 to draw one, got 18446744073709551616"),
        ({"cfg_scale": math.nan}, "cfg_scale must be a finite number, got nan"),
        ({"sampler_type": "eulr"}, "unknown sampler 'eulr'; did you mean 'euler'"),
        ({"sampler_type": "euler"}, "sampler 'euler' cannot be used with objective 'v'; use one of dpmpp-2m, "),
    ],
)
def test_what_it_refuses(v_model: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigError, DataError, AudioError), match=message):
        generate(v_model, **options)


def test_options_of_the_network_reach_it(v_model: Any) -> None:
    assert not torch.equal(generate(v_model, scale_phi=0.7), generate(v_model))
    assert torch.equal(generate(v_model, cfg_interval=(0.0, 0.0)), generate(v_model, cfg_interval=[0, 0]))
    assert torch.equal(generate(v_model, sigma_max=None, rho=1, steps=np.int64(3)), generate(v_model))


def test_sigma_max_beside_init_audio_is_warned_about(
    v_model: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("stable_audio_tools"), "propagate", True)
    expected = generate(v_model, init_audio=(8000, tone(256, 8000)), init_noise_level=2.0)
    assert caplog.text == ""
    made = generate(v_model, init_audio=(8000, tone(256, 8000)), init_noise_level=2.0, sigma_max=50)
    assert torch.equal(made, expected)
    assert "sigma_max has no effect with init_audio: init_noise_level is the first noise level" in caplog.text


def test_a_model_without_conditioner_wants_tensors(dit_config: Any) -> None:
    from stable_audio_tools.models import create_model_from_config

    config = dit_config(cond_token_dim=0, global_cond_dim=0)
    config["model"].pop("conditioning")
    config["model"]["diffusion"] |= {"cross_attention_cond_ids": [], "global_cond_ids": []}
    bare = create_model_from_config(config)
    with pytest.raises(ConfigError, match="this model has no conditioner: give conditioning_tensors instead of conditioning"):
        generate(bare)
    assert generate(bare, conditioning_tensors={}).shape == (1, 1, 256)


def test_the_model_s_own_method_is_the_same(v_model: Any) -> None:
    assert torch.equal(v_model.generate(3, 3.0, [RAIN], sample_size=256, seed=1, disable_tqdm=True), generate(v_model))
