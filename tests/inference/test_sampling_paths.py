"""The kept import path of the samplers, with the call shapes of both versions."""

import math

import pytest
import torch

from stable_audio_tools.inference import sampling
from stable_audio_tools.sampling.run import sample
from stable_audio_tools.sampling.shifts import DistributionShift

NOISE = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))
FLOWS = {"euler": "sample_discrete_euler", "rk4": "sample_rk4", "dpmpp": "sample_flow_dpmpp", "pingpong": "sample_flow_pingpong"}


def field(x, t, gain=1.0):
    assert t.shape == (2,)
    return torch.sin(3 * x) * t[:, None, None] * gain


def test_alphas_and_sigmas():
    alpha, sigma = sampling.get_alphas_sigmas(torch.tensor([0.0, 0.5, 1.0]))
    torch.testing.assert_close(alpha, torch.tensor([1.0, math.sqrt(0.5), 0.0]), atol=1e-6, rtol=0)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones(3))


def test_truncated_times_fill_their_range():
    torch.manual_seed(0)
    drawn = sampling.truncated_logistic_normal_rescaled((1000, 2))
    assert drawn.shape == (1000, 2) and float(drawn.min()) >= 0 and float(drawn.max()) <= 1 and float(drawn.std()) > 0.15


@pytest.mark.parametrize("name", FLOWS)
def test_flow_samplers_take_steps_or_times(name):
    solve, seen = getattr(sampling, FLOWS[name]), []
    results = []
    for arguments in ((4,), (torch.linspace(1, 0, 5),)):
        torch.manual_seed(0)
        results.append(solve(field, NOISE, *arguments, callback=seen.append, disable_tqdm=True, gain=2.0))
    torch.manual_seed(0)
    results.append(solve(field, NOISE, sigmas=torch.linspace(1, 0, 5).expand(2, -1), disable_tqdm=True, gain=2.0))
    for other in results[1:]:
        torch.testing.assert_close(results[0], other)
    assert [step["i"] for step in seen] == [0, 1, 2, 3] * 2
    with pytest.raises(TypeError, match="needs steps or sigmas"):
        solve(field, NOISE)


def test_shift_and_first_time():
    seen = []
    sampling.sample_discrete_euler(
        field, NOISE, steps=4, sigma_max=0.6, dist_shift=DistributionShift(), callback=seen.append, disable_tqdm=True
    )
    assert seen[0]["t"] == pytest.approx(0.6)
    torch.testing.assert_close(
        torch.tensor([step["t"] for step in seen] + [0.0]), sampling.build_schedule(4, 0.6, DistributionShift(), fallback_seq_len=8)
    )


@pytest.mark.parametrize(("function", "kind", "sampler"), [("sample_k", "v", "dpmpp-2m"), ("sample_rf", "rectified_flow", "euler")])
def test_whole_loops_equal_sample(function, kind, sampler):
    init = NOISE.flip(0)
    out = getattr(sampling, function)(field, NOISE, init, 5, sampler, sigma_max=0.7, device="cpu", gain=0.5)
    expected = sample(lambda x, t: field(x, t, 0.5), NOISE, objective=kind, steps=5, sampler=sampler, init=init, sigma_max=0.7)
    assert torch.equal(out, expected)


def test_ddim():
    expected = sample(field, NOISE, objective="v", steps=5, sampler="v-ddim")
    assert torch.equal(sampling.sample(field, NOISE, 5, 0), expected)

    def informed(x, t, return_info=False):
        v = field(x, t)
        return (v, {"uncond_output": v}) if return_info else v

    assert torch.equal(sampling.sample(informed, NOISE, 5, 0, cfg_pp=True), expected)


def test_sample_diffusion_equals_generation_of_the_new_version(dit_config, randomise):
    from stable_audio_tools.inference.generation import generate_diffusion_cond
    from stable_audio_tools.models import create_model_from_config

    config = dit_config(objective="rectified_flow")
    config["model"]["diffusion"]["sampling_version"] = "0.0.20"
    model = randomise(create_model_from_config(config)).eval()
    metadata = [{"prompt": "rain", "seconds_total": 2}]
    generated = generate_diffusion_cond(model, steps=3, cfg_scale=4.0, conditioning=metadata, sample_size=256, seed=5, disable_tqdm=True)
    torch.manual_seed(5)
    noise = torch.randn(1, 8, 32)
    with torch.no_grad():
        inputs = model.get_conditioning_inputs(model.conditioner(metadata, "cpu"))
    audio = sampling.sample_diffusion(
        model.model, noise, inputs, "rectified_flow", 3, 4.0, pretransform=model.pretransform, dist_shift=model.sampling_dist_shift,
        disable_tqdm=True,
    )  # fmt: skip
    torch.testing.assert_close(audio, generated)
