"""Inpainting, lengths by condition, and whose numbers generation has."""

from contextlib import nullcontext

import pytest
import torch

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.families import SAMPLERS
from stable_audio_tools.inference.generation import generate_diffusion_cond, generate_diffusion_cond_inpaint
from stable_audio_tools.models import create_model_from_config
from stable_audio_tools.sampling.run import sample
from stable_audio_tools.sampling.shifts import DistributionShift, LogSNRShift

RAIN, WIND = {"prompt": "rain", "seconds_total": 0.02}, {"prompt": "wind", "seconds_total": 0.05}
IDS = ["inpaint_mask", "inpaint_masked_input"]
AUDIO = (8000, torch.randn(1, 256, generator=torch.Generator().manual_seed(0)) * 0.3)
HALF = torch.cat([torch.ones(128), torch.zeros(128)])


@pytest.fixture
def make(dit_config, randomise):
    def build(way="concat", objective="rectified_flow", **diffusion):
        config = dit_config(objective=objective, **({"input_concat_dim": 9} if way == "concat" else {"local_add_cond_dim": 9}))
        config["model_type"] = "diffusion_cond_inpaint"
        config["model"]["diffusion"] |= {"input_concat_ids" if way == "concat" else "local_add_cond_ids": IDS, **diffusion}
        torch.manual_seed(0)
        return randomise(create_model_from_config(config)).eval()

    return build


def inpaint(model, **options):
    defaults = {"steps": 3, "cfg_scale": 3.0, "sample_size": 256, "seed": 1, "disable_tqdm": True, "conditioning": [RAIN]}
    return generate_diffusion_cond_inpaint(model, **(defaults | options))


@pytest.mark.parametrize("way", ["concat", "local"])
def test_only_what_is_kept_matters(make, way):
    model = make(way)
    other = (8000, torch.cat([AUDIO[1][:, :128], torch.randn(1, 128)], dim=1))
    kept = inpaint(model, inpaint_audio=AUDIO, inpaint_mask=HALF)
    torch.testing.assert_close(kept, inpaint(model, inpaint_audio=other, inpaint_mask=HALF))
    assert not torch.allclose(kept, inpaint(model, inpaint_audio=AUDIO, inpaint_mask=1 - HALF))
    assert not torch.allclose(kept, inpaint(model))


@pytest.mark.parametrize("way", ["concat", "local"])
def test_the_network_sees_mask_and_masked_latents_at_every_step(make, way):
    model, seen = make(way), []
    name = "input_concat_cond" if way == "concat" else "local_add_cond"
    model.model.register_forward_pre_hook(lambda module, args, kwargs: seen.append(kwargs[name]), with_kwargs=True)
    inpaint(model, inpaint_audio=AUDIO, inpaint_mask=HALF)
    latents = model.pretransform.encode(AUDIO[1][None])
    expected = torch.cat([HALF[::8].expand(1, 1, -1), latents * HALF[::8]], dim=1)
    assert len(seen) == 3
    for condition in seen:
        torch.testing.assert_close(condition, expected)


def test_one_mask_serves_the_batch_and_shapes_are_equal(make):
    model = make()
    batch = {"conditioning": [RAIN, WIND], "batch_size": 2, "inpaint_audio": AUDIO}
    expected = inpaint(model, inpaint_mask=HALF, **batch)
    for mask in (HALF[None], HALF.expand(2, -1), HALF.bool(), torch.cat([HALF, torch.ones(50)])):
        torch.testing.assert_close(inpaint(model, inpaint_mask=mask, **batch), expected)


def test_seconds_instead_of_a_mask(make):
    model = make()
    by_seconds = inpaint(model, inpaint_audio=AUDIO, inpaint_mask_start_seconds=0.016, inpaint_mask_end_seconds=1.0)
    torch.testing.assert_close(by_seconds, inpaint(model, inpaint_audio=AUDIO, inpaint_mask=HALF))


def test_without_audio_an_inpainting_model_generates(make):
    model = make()
    plain = generate_diffusion_cond(
        model, steps=3, cfg_scale=3.0, sample_size=256, seed=1, disable_tqdm=True, conditioning=[RAIN], negative_conditioning=[WIND]
    )
    torch.testing.assert_close(plain, inpaint(model, negative_conditioning=[WIND]))


def test_callers_conditions_are_not_touched(make):
    model = make()
    with torch.no_grad():
        tensors = model.conditioner([RAIN], "cpu")
    before = dict(tensors)
    inpaint(model, conditioning=None, conditioning_tensors=tensors, inpaint_audio=AUDIO, inpaint_mask=HALF)
    assert tensors == before


@pytest.mark.parametrize("shape", [(3, 256), (1, 1, 256), (2, 256)])
def test_refuses_masks_of_other_shapes(make, shape):
    with pytest.raises(ConfigError, match=r"inpaint_mask must be \(T,\), \(1, T\) or \(1, T\), got"):
        inpaint(make(), inpaint_mask=torch.ones(shape))


# ---- lengths ---------------------------------------------------------------------------------------------------------------------


def test_makes_no_more_than_the_conditions_ask_for(make):
    model = make()
    for metadata, frames in (([RAIN], 22), ([RAIN, WIND], 52)):  # (0.02 s + 0.002 s) * 8000 / 8
        out = inpaint(
            model, conditioning=metadata, batch_size=len(metadata), sample_size=4096, adapt_duration_to_conditioning=True,
            duration_padding_sec=0.002,
        )  # fmt: skip
        assert out.shape[-1] == frames * 8
    assert inpaint(model, sample_size=64, adapt_duration_to_conditioning=True).shape[-1] == 64


def test_padding_is_silent_and_changes_nothing_before_it(make):
    model = make("local", mask_padding_attention=True)
    short, long = (
        inpaint(model, conditioning=[RAIN, other], batch_size=2, sample_size=512, duration_padding_sec=0.0, steps=1, sampler_type="euler")
        for other in (RAIN, WIND)
    )
    assert short.shape[-1] == 160 and long.shape[-1] == 400
    assert not long[0, :, 160:].any() and long[1, :, 160:].any()
    # noise of another length is another noise: compare the network itself, whose first item must not see what follows
    x, t = torch.randn(2, 8, 50), torch.full((2,), 0.5)
    mask = torch.arange(50) < torch.tensor([20, 50])[:, None]
    cond = {"inpaint_mask": [torch.zeros(2, 1, 50)], "inpaint_masked_input": [torch.zeros(2, 8, 50)]}
    with torch.no_grad():
        whole = model(x, t, {**model.conditioner([RAIN, WIND], "cpu"), **cond}, padding_mask=mask)
        cut = {key: [value[0][:1, :, :20]] for key, value in cond.items()}
        alone = model(x[:1, :, :20], t[:1], {**model.conditioner([RAIN], "cpu"), **cut})
    torch.testing.assert_close(whole[:1, :, :20], alone, atol=1e-5, rtol=1e-4)


def test_each_item_goes_by_its_own_length(make):
    model = make(use_effective_length_for_schedule=True, sampling_distribution_shift_options={"min_length": 1, "max_length": 60})
    seen = []
    inpaint(
        model, conditioning=[RAIN, WIND], batch_size=2, sample_size=512, sampler_type="euler", callback=lambda step: seen.append(step["t"])
    )
    shift = DistributionShift(min_length=1, max_length=60)
    grids = torch.stack([shift.shift(torch.linspace(1, 0, 4), length) for length in (20, 50)])
    torch.testing.assert_close(torch.stack(seen), grids[:, :-1].T)


def test_unknown_lengths_are_said_and_left_alone(make, caplog):
    model = make(use_effective_length_for_schedule=True)
    with torch.no_grad():
        tensors = model.conditioner([RAIN], "cpu")
    out = inpaint(model, conditioning=None, conditioning_tensors=tensors)
    assert out.shape[-1] == 256 and "not every item has a 'seconds_total'" in caplog.text


# ---- whose numbers -----------------------------------------------------------------------------------------------------------------


def times_of(model, **options):
    seen = []
    generate_diffusion_cond(
        model, steps=4, cfg_scale=1.0, sample_size=256, seed=1, disable_tqdm=True, conditioning=[RAIN],
        callback=lambda step: seen.append(step["t"]), **options,
    )  # fmt: skip
    return torch.tensor(seen)


def grid(anchor):
    return torch.cat([torch.ones(1), torch.sigmoid(-anchor - torch.arange(1, 4) / 4 * (2 - anchor))])


def test_old_configs_have_the_old_numbers_and_new_ones_the_new(make):
    old, new, asked = make(), make("local"), make(sampling_version="0.0.20")
    assert [model.sampling_version for model in (old, new, asked)] == ["0.0.19", "0.0.20", "0.0.20"]
    torch.testing.assert_close(times_of(old), grid(-6.0), atol=1e-5, rtol=1e-5)
    for model in (new, asked):
        torch.testing.assert_close(times_of(model), grid(-6.2), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(times_of(new, dist_shift=LogSNRShift(rate=0, anchor_logsnr=-6.0)), times_of(old), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(times_of(old, dist_shift={"type": "none"}), torch.tensor([1.0, 0.75, 0.5, 0.25]))


def test_guidance_is_projected_with_the_new_numbers_or_when_asked(make):
    old, new = make(), make(sampling_version="0.0.20")
    same = {"dist_shift": LogSNRShift(rate=0), "cfg_scale": 6.0}
    torch.testing.assert_close(inpaint(old, apg_scale=1.0, **same), inpaint(new, **same))
    torch.testing.assert_close(inpaint(old, **same), inpaint(new, apg_scale=0.0, **same))
    assert not torch.allclose(inpaint(old, **same), inpaint(new, **same))


def test_rk4_follows_the_training_shift_as_published(make):
    model = make(distribution_shift_options={"min_length": 16, "max_length": 256})
    shift = DistributionShift(min_length=16, max_length=256)
    torch.testing.assert_close(times_of(model, sampler_type="rk4"), shift.shift(torch.linspace(1, 0, 5), 32)[:-1])
    torch.testing.assert_close(times_of(model), grid(-6.0), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("by_item", [False, True])
def test_guidance_acts_in_its_interval_only(make, by_item):
    """Decided from the times of the schedule, which are not read back from the device."""
    model = make(use_effective_length_for_schedule=by_item, sampling_version="0.0.20")
    batch = {"conditioning": [RAIN, WIND], "batch_size": 2, "sample_size": 512, "adapt_duration_to_conditioning": False}
    shifted = {"dist_shift": DistributionShift(min_length=1, max_length=60), "steps": 4}
    none, everywhere, late = (
        inpaint(model, **batch, **shifted, cfg_scale=scale, cfg_interval=interval)
        for scale, interval in ((1.0, (0.0, 1.0)), (5.0, (0.0, 1.0)), (5.0, (0.0, 0.7)))
    )
    assert not torch.allclose(none, late) and not torch.allclose(everywhere, late)
    torch.testing.assert_close(inpaint(model, **batch, **shifted, cfg_scale=5.0, cfg_interval=(2.0, 3.0)), none, atol=1e-5, rtol=1e-4)


def test_cfgpp_differs_from_ddim_only_under_guidance(make):
    model = make(objective="v")
    options = [{"sampler_type": name, "cfg_scale": scale} for scale in (1.0, 4.0) for name in ("v-ddim", "v-ddim-cfgpp")]
    plain, plain_pp, guided, guided_pp = (inpaint(model, **option) for option in options)
    torch.testing.assert_close(plain, plain_pp)
    assert not torch.allclose(guided, guided_pp)


def test_options_reach_the_sampler(make):
    model = make(objective="v")
    one, two = (inpaint(model, sampler_type="v-ddim", eta=eta) for eta in (0.0, 1.0))
    assert not torch.allclose(one, two)


def test_no_step_of_the_network_reads_from_the_device(make, monkeypatch):
    """On the meta device nothing has a value: asking for one, which would wait for a GPU, fails."""
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: nullcontext())  # it does not know that device
    model = make("local").model.to("meta")
    shape = {"cross_attn_cond": (2, 24, 16), "global_cond": (2, 16), "local_add_cond": (2, 9, 32)}
    conditions = model.prepare({name: torch.zeros(size, device="meta") for name, size in shape.items()}, 9)
    options = {"cfg_scale": 4.0, "apg_scale": 1.0, "cfg_norm_threshold": 2.0, "scale_phi": 0.5}
    mask = torch.ones(2, 32, dtype=torch.bool, device="meta")

    def predict(x, t):
        return model(x, t.to("meta"), **conditions, **options, padding_mask=mask)

    noise = torch.zeros(2, 8, 32, device="meta")
    for sampler in SAMPLERS.names(objectives="rectified_flow"):
        for length in (100, torch.tensor([100, 300])):
            out = sample(predict, noise, objective="rectified_flow", steps=2, sampler=sampler, shift=DistributionShift(), length=length)
            assert out.shape == noise.shape
    for sampler in set(SAMPLERS.names(objectives="v")) - {"k-dpm-adaptive", "dpmpp-2m-sde", "dpmpp-3m-sde"}:
        assert sample(predict, noise, objective="v", steps=2, sampler=sampler).shape == noise.shape


def test_sample_is_what_runs(make):
    """Guidance, schedule and start come out the same when put together by hand."""
    model = make()
    torch.manual_seed(1)
    noise = torch.randn(1, 8, 32)
    with torch.no_grad():
        cond = {**model.conditioner([RAIN], "cpu"), "inpaint_mask": [torch.zeros(1, 1, 32)], "inpaint_masked_input": [noise * 0]}
    latents = sample(lambda x, t: model(x, t, cond, cfg_scale=3.0), noise, objective="rectified_flow", steps=3)
    torch.testing.assert_close(inpaint(model, return_latents=True), latents)


@pytest.mark.parametrize(("start", "end"), [(0.01, None), (None, 0.01), (0.02, 0.01), (-1, 0.01)])
def test_refuses_spans_that_are_none(make, start, end):
    with pytest.raises(ConfigError, match=rf"say together what is made anew: 0 <= start < end, got {start} and {end}"):
        inpaint(make(), inpaint_audio=AUDIO, inpaint_mask_start_seconds=start, inpaint_mask_end_seconds=end)


def test_a_span_is_the_mask_of_its_samples(make):
    model = make()
    span = inpaint(model, inpaint_audio=AUDIO, inpaint_mask_start_seconds=0.016, inpaint_mask_end_seconds=0.032)
    torch.testing.assert_close(span, inpaint(model, inpaint_audio=AUDIO, inpaint_mask=HALF))


def test_says_that_a_short_mask_is_stretched(make, caplog):
    stretched = inpaint(make(), inpaint_audio=AUDIO, inpaint_mask=torch.tensor([1.0, 0.0]))
    assert "inpaint_mask has 2 steps for 256 samples: it is stretched" in caplog.text
    torch.testing.assert_close(stretched, inpaint(make(), inpaint_audio=AUDIO, inpaint_mask=HALF))
