"""Training inpainting models: what they see, what counts, what a demo makes."""

import random
from types import SimpleNamespace

import pytest
import torch

from stable_audio_tools.config.check import parse_model_config
from stable_audio_tools.models import create_model_from_config
from stable_audio_tools.training import create_training_wrapper_from_config
from stable_audio_tools.training.demos.diffusion_cond_inpaint import DiffusionCondInpaintDemoCallback, demo_diffusion_cond_inpaint

IDS = ["inpaint_mask", "inpaint_masked_input"]
BATCH = (
    torch.randn(2, 1, 512, generator=torch.Generator().manual_seed(0)) * 0.3,
    [
        {"prompt": "rain", "seconds_total": 0.064, "padding_mask": [torch.ones(512)]},
        {"prompt": "wind", "seconds_total": 0.04, "padding_mask": [(torch.arange(512) < 320).float()]},
    ],
)


@pytest.fixture
def config(dit_config):
    def make(way="concat", training=None, **diffusion):
        made = dit_config(objective="rectified_flow", **({"input_concat_dim": 9} if way == "concat" else {"local_add_cond_dim": 9}))
        made["model_type"] = "diffusion_cond_inpaint"
        made["model"]["diffusion"] |= {"input_concat_ids" if way == "concat" else "local_add_cond_ids": IDS, **diffusion}
        return {**made, "training": {"learning_rate": 1e-3, **(training or {})}}

    return make


@pytest.fixture
def wrap(config):
    def make(*args, **options):
        made = config(*args, **options)
        torch.manual_seed(0)
        wrapper = create_training_wrapper_from_config(made, create_model_from_config(made))
        wrapper.log_training = wrapper.log_by_time = lambda *_: None
        return wrapper

    return make


def seen_by(wrapper, step):
    """What the backbone gets in a step."""
    seen = []
    handle = wrapper.diffusion.model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append({**kwargs, "t": args[1]}), with_kwargs=True
    )
    torch.manual_seed(0)
    random.seed(0)
    step()
    handle.remove()
    return seen


@pytest.mark.parametrize("way", ["concat", "local"])
def test_a_repeated_batch_is_learned_and_the_state_comes_back(wrap, way):
    wrapper = wrap(way)
    optimizer = torch.optim.Adam(wrapper.diffusion.parameters(), 1e-2)
    losses = []
    for _ in range(12):
        torch.manual_seed(0)
        random.seed(0)
        loss = wrapper.training_step(BATCH, 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]
    again = wrap(way)
    again.load_state_dict(wrapper.state_dict(), strict=True)
    for one, other in zip(wrapper.diffusion.parameters(), again.diffusion.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_network_sees_a_mask_and_the_latents_it_leaves(wrap):
    wrapper = wrap()
    (seen,) = seen_by(wrapper, lambda: wrapper.training_step(BATCH, 0))
    mask, masked = seen["input_concat_cond"].split([1, 8], dim=1)
    assert mask.shape == (2, 1, 64) and set(mask.unique().tolist()) <= {0.0, 1.0}
    torch.testing.assert_close(masked, wrapper.diffusion.pretransform.encode(BATCH[0]) * mask)
    assert "padding_mask" not in seen


def test_causal_masks_begin_within_each_items_content(wrap):
    wrapper = wrap(training={"inpainting": {"mask_kwargs": {"mask_type_probabilities": [0.0, 0.0, 1.0]}}})
    (seen,) = seen_by(wrapper, lambda: wrapper.training_step(BATCH, 0))
    mask = seen["input_concat_cond"][:, 0]
    assert mask[1, 40:].all()  # 320 samples are 40 frames; what follows is padding
    assert not mask[0].all() and not mask[0, -1]


def test_padding_is_hidden_and_never_kept_if_the_model_says_so(wrap):
    wrapper = wrap("local", mask_padding_attention=True)
    (seen,) = seen_by(wrapper, lambda: wrapper.training_step(BATCH, 0))
    assert seen["padding_mask"].sum(dim=1).tolist() == [64, 40]
    assert not seen["local_add_cond"][1, 0, 40:].any()


def test_shifts_go_by_each_items_length_if_the_model_says_so(wrap):
    options = {"distribution_shift_options": {"min_length": 1, "max_length": 64}}
    plain, by_item = wrap("local", **options), wrap("local", use_effective_length_for_schedule=True, **options)
    (a,), (b,) = (seen_by(wrapper, lambda w=wrapper: w.training_step(BATCH, 0)) for wrapper in (plain, by_item))
    assert float(a["t"][0]) == pytest.approx(float(b["t"][0]))  # 64 frames, the whole length
    assert float(b["t"][1]) < float(a["t"][1])  # 40 frames: less noise


def test_validation_hides_the_second_half(wrap):
    wrapper = wrap()
    wrapper.log = lambda *_, **__: None
    seen = seen_by(wrapper, lambda: wrapper.validation_step(BATCH, 0))
    assert len(seen) == 5
    for inputs in seen:
        assert inputs["input_concat_cond"][:, 0, :32].all() and not inputs["input_concat_cond"][:, :, 32:].any()


def test_a_demo_fills_the_second_half_of_items_of_the_batch(wrap, config, tmp_path):
    made = config(training={"demo": {"demo_every": 10, "demo_steps": 2, "num_demos": 2, "demo_cfg_scales": [1, 3]}})
    callback = demo_diffusion_cond_inpaint(parse_model_config(made, strict=True))
    assert isinstance(callback, DiffusionCondInpaintDemoCallback)
    callback.folder = callback._folder = tmp_path
    callback.sink = SimpleNamespace(log_audio=lambda *_: None, log_image=lambda *_: None)
    emitted = {}
    callback.emit = lambda name, audio, rate, step: emitted.setdefault(name, (audio, rate))
    with torch.no_grad():
        callback.demo(wrap(), BATCH, 0)
    assert set(emitted) == {"demo_cfg_1", "demo_cfg_3"}
    audio, rate = emitted["demo_cfg_3"]
    assert audio.shape == (1, 1024) and rate == 8000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask_type_probabilities": [0.5, 0.5]}, "needs 3 or 4 numbers with sum 1"),
        ({"mask_type_probabilities": [0.5, 0.5, 0.5]}, "needs 3 or 4 numbers with sum 1"),
        ({"mask_ratio_range": [0.9, 0.1]}, "needs two numbers, the smaller one first"),
        ({"max_spans": 6}, r"needs 6 numbers \(max_spans\), got 4"),
    ],
)
def test_mask_options_are_checked(config, options, message):
    from stable_audio_tools.errors import ConfigError

    with pytest.raises(ConfigError, match=message):
        parse_model_config(config(training={"inpainting": {"mask_kwargs": options}}), strict=True)
