"""Backbone, conditioners and pretransform as one model."""

import csv
import json
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from torch import nn

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.inference.generation import generate_diffusion_cond
from stable_audio_tools.models import create_model_from_config, create_model_from_config_path
from stable_audio_tools.models.diffusion import ConditionedDiffusionModelWrapper
from stable_audio_tools.sampling.shifts import DistributionShift


def wrap(**ids):
    return ConditionedDiffusionModelWrapper(nn.Linear(1, 1), None, io_channels=4, sample_rate=8000, min_input_length=1, **ids)


def randn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def test_sequences_are_concatenated_in_the_order_of_their_ids():
    model = wrap(cross_attn_cond_ids=["a", "b"], prepend_cond_ids=["b", "a"])
    a, b = (randn(2, 3, 8), torch.tensor([[1, 1, 0]] * 2).bool()), (randn(2, 1, 8), torch.ones(2, 1))
    inputs = model.get_conditioning_inputs({"b": b, "a": a, "unused": None})
    assert torch.equal(inputs["cross_attn_cond"], torch.cat([a[0], b[0]], dim=1))
    assert inputs["cross_attn_mask"].tolist() == [[1, 1, 0, 1]] * 2
    assert torch.equal(inputs["prepend_cond"], torch.cat([b[0], a[0]], dim=1))
    assert inputs["prepend_cond_mask"].tolist() == [[1, 1, 1, 0]] * 2
    assert inputs["global_cond"] is None and inputs["input_concat_cond"] is None


@pytest.mark.parametrize("kind", ["cross_attn", "prepend"])
@pytest.mark.parametrize("condition", [lambda x: (x, torch.ones(2)), lambda x: (x, torch.ones(2, 1)), lambda x: (x, None), lambda x: [x]])
def test_vectors_become_sequences_of_one_and_masks_may_be_missing(kind, condition):
    x = randn(2, 8)
    model = wrap(**{f"{kind}_cond_ids": ["a", "b"]})
    inputs = model.get_conditioning_inputs({"a": condition(x), "b": (randn(2, 3, 8), torch.zeros(2, 3))})
    cond = inputs[f"{kind}_cond"]
    mask = inputs["cross_attn_mask" if kind == "cross_attn" else "prepend_cond_mask"]
    assert cond.shape == (2, 4, 8) and torch.equal(cond[:, 0], x)
    assert mask.tolist() == [[1, 0, 0, 0]] * 2


@pytest.mark.parametrize("shape", [(2, 1, 4), (2, 4)])
def test_global_conditions_are_concatenated_along_channels(shape):
    model = wrap(global_cond_ids=["a", "b"])
    a, b = randn(*shape), randn(*shape) + 1
    global_cond = model.get_conditioning_inputs({"a": (a, None), "b": [b]})["global_cond"]
    assert torch.equal(global_cond, torch.cat([a, b], dim=-1).reshape(2, 8))


def test_input_concat_conditions_are_concatenated_along_channels():
    model = wrap(input_concat_ids=["inpaint_mask", "inpaint_masked_input"])
    mask, masked = randn(2, 1, 6), randn(2, 4, 6)
    inputs = model.get_conditioning_inputs({"inpaint_mask": [mask], "inpaint_masked_input": [masked]})
    assert torch.equal(inputs["input_concat_cond"], torch.cat([mask, masked], dim=1))


def test_negative_names():
    model = wrap(cross_attn_cond_ids=["a"], prepend_cond_ids=["a"], global_cond_ids=["a"])
    condition = {"a": (randn(2, 1, 8), torch.ones(2, 1))}
    positive, negative = model.get_conditioning_inputs(condition), model.get_conditioning_inputs(condition, negative=True)
    assert set(negative) == {
        "negative_cross_attn_cond", "negative_cross_attn_mask", "negative_global_cond", "negative_input_concat_cond",
    }  # fmt: skip
    assert all(torch.equal(negative[f"negative_{name}"], positive[name]) for name in ("cross_attn_cond", "cross_attn_mask", "global_cond"))


@pytest.mark.parametrize("kind", ["cross_attn_cond_ids", "global_cond_ids", "input_concat_ids", "prepend_cond_ids"])
def test_a_missing_condition_is_named(kind):
    with pytest.raises(ConfigError, match="conditioned on 'seconds', which is missing; given: prompt"):
        wrap(**{kind: ["seconds"]}).get_conditioning_inputs({"prompt": (randn(2, 1, 8), None)})


# ---- built from configs --------------------------------------------------------------------------------------------------------------


def test_forward_sorts_conditions_and_passes_options_on(dit_config, randomise):
    model = randomise(create_model_from_config(dit_config())).eval()
    x, t = randn(2, 8, 6), torch.tensor([0.2, 0.8])
    cond = model.conditioner([{"prompt": "kick", "seconds_total": 1}, {"prompt": "pad", "seconds_total": 8}], "cpu")
    out = model(x, t, cond, cfg_scale=3.0)
    expected = model.model(x, t, cross_attn_cond=cond["prompt"].embedding, global_cond=cond["seconds_total"].embedding[:, 0], cfg_scale=3.0)
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize("patch", [1, 2])
def test_lengths_that_the_model_takes(dit_config, patch):
    model = create_model_from_config(dit_config(patch_size=patch))
    assert (model.downsampling_ratio, model.min_input_length) == (8, 8 * patch)


def test_without_a_pretransform(dit_config):
    config = dit_config()
    del config["model"]["pretransform"]
    model = create_model_from_config(config)
    assert (model.pretransform, model.downsampling_ratio, model.min_input_length) == (None, 1, 1)


@pytest.mark.parametrize("options", [{}, {"type": "full"}, None])
def test_distribution_shift(dit_config, options):
    config = dit_config(objective="rectified_flow")
    if options is not None:
        config["model"]["diffusion"]["distribution_shift_options"] = {"base_shift": 0.1, **options}
    shift = create_model_from_config(config).dist_shift
    assert (shift is None) if options is None else (isinstance(shift, DistributionShift) and shift.base_shift == 0.1)


def test_generate_is_the_function_as_a_method(dit_config):
    model = create_model_from_config(dit_config())
    options = {"conditioning": [{"prompt": "kick", "seconds_total": 1}], "steps": 2, "sample_size": 64, "seed": 3}
    assert torch.equal(model.generate(**options), generate_diffusion_cond(model, **options))


def test_a_user_can_give_conditions_where_the_model_has_no_conditioner(dit_config):
    config = dit_config()
    del config["model"]["conditioning"]
    config["model"]["diffusion"] |= {"cross_attention_cond_ids": [], "global_cond_ids": []}
    model = create_model_from_config(config)
    assert model.conditioner is None
    assert model.generate(conditioning_tensors={}, steps=1, sample_size=64, seed=0).shape == (1, 1, 64)
    with pytest.raises(ConfigError, match="this model has no conditioner: give conditioning_tensors instead"):
        model.generate(conditioning=[{}], steps=1, sample_size=64)


# ---- the weights of Stable Audio Open 1.0 --------------------------------------------------------------------------------------------


def linear(name, width_out, width_in, *, bias=False):
    return {f"{name}.weight": (width_out, width_in), **({f"{name}.bias": (width_out,)} if bias else {})}


def published_dit(E=1536, depth=24, cond=768, latents=64):
    shapes = {
        "timestep_features.weight": (128, 1),
        **linear("to_timestep_embed.0", E, 256, bias=True), **linear("to_timestep_embed.2", E, E, bias=True),
        **linear("to_cond_embed.0", cond, cond), **linear("to_cond_embed.2", cond, cond),
        **linear("to_global_embed.0", E, 2 * cond), **linear("to_global_embed.2", E, E),
        "preprocess_conv.weight": (latents, latents, 1), "postprocess_conv.weight": (latents, latents, 1),
        **linear("transformer.project_in", E, latents), **linear("transformer.project_out", latents, E),
        "transformer.rotary_pos_emb.inv_freq": (16,),
    }  # fmt: skip
    for index in range(depth):
        name = f"transformer.layers.{index}"
        for norm in ("pre_norm", "cross_attend_norm", "ff_norm"):
            shapes |= {f"{name}.{norm}.gamma": (E,), f"{name}.{norm}.beta": (E,)}
        shapes |= linear(f"{name}.self_attn.to_qkv", 3 * E, E) | linear(f"{name}.self_attn.to_out", E, E)
        shapes |= linear(f"{name}.cross_attn.to_q", E, E) | linear(f"{name}.cross_attn.to_kv", E, cond)
        shapes |= linear(f"{name}.cross_attn.to_out", E, E)
        shapes |= linear(f"{name}.ff.ff.0.proj", 8 * E, E, bias=True) | linear(f"{name}.ff.ff.2", E, 4 * E, bias=True)
    return {f"model.model.{key}": shape for key, shape in shapes.items()}


def test_state_dict_of_the_shipped_open_1_0():
    path = files("stable_audio_tools") / "configs/model_configs/txt2audio/stable_audio_open_1_0.json"
    with torch.device("meta"):
        model = create_model_from_config_path(str(path))
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert {name: shape for name, shape in shapes.items() if name.startswith("model.")} == published_dit()
    numbers = {name for name in shapes if name.startswith("conditioner.")}
    assert numbers == {
        f"conditioner.conditioners.{name}.embedder.embedding.{key}"
        for name in ("seconds_start", "seconds_total")
        for key in ("0.weights", "1.weight", "1.bias")
    }
    rest = set(shapes) - numbers - set(published_dit())
    assert rest and all(name.startswith(("pretransform.model.encoder.", "pretransform.model.decoder.")) for name in rest)


def test_open_small_has_the_recorded_names_and_shapes(shared):
    """The tensors of the released model against the model built from its released config."""
    with (shared / "corpus" / "state-dict-keys-stable-audio-open-small.csv").open(encoding="utf-8") as file:
        recorded = {row["key"]: tuple(map(int, row["shape"].split("x"))) for row in csv.DictReader(file)}
    released = shared / "corpus" / "model_configs" / "Stability-AI__stable-audio-tools__sao_small-base_model_config.json"
    shipped = files("stable_audio_tools") / "configs/model_configs/txt2audio/stable_audio_open_small.json"
    for config in (released, shipped):
        with torch.device("meta"):
            model = create_model_from_config_path(str(config))
        assert {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()} == recorded
    told, shown = (json.loads(Path(str(config)).read_text(encoding="utf-8"))["model"] for config in (released, shipped))
    told["pretransform"].pop("iterate_batch")  # says what is the default
    assert shown == told
