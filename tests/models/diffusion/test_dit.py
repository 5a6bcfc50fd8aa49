"""The diffusion transformer: conditions, guidance, dropping."""

import pytest
import torch

from stable_audio_tools.errors import AudioError, ConfigError
from stable_audio_tools.models.diffusion import DiffusionTransformer, DiTWrapper

SMALL = {"io_channels": 4, "embed_dim": 32, "depth": 2, "num_heads": 2}


@pytest.fixture
def make(randomise):
    def build(kind=DiffusionTransformer, **options):
        torch.manual_seed(0)
        return randomise(kind(**{**SMALL, **options})).eval().requires_grad_(False)

    return build


def tensors(batch=2, length=6):
    generator = torch.Generator().manual_seed(3)

    def randn(*shape):
        return torch.randn(*shape, generator=generator)

    return {
        "x": randn(batch, 4, length), "t": torch.rand(batch, generator=generator), "cross": randn(batch, 5, 8),
        "global": randn(batch, 6), "prepend": randn(batch, 3, 10), "concat": randn(batch, 2, length),
    }  # fmt: skip


T = tensors()
CROSS = {"cond_token_dim": 8}


def test_guidance_of_one_is_none(make):
    model = make(**CROSS)
    assert torch.equal(model(T["x"], T["t"], T["cross"], cfg_scale=1.0), model(T["x"], T["t"], T["cross"]))


@pytest.mark.parametrize("scale", [0.0, 2.5, 7.0, -1.0])
def test_guidance_equals_two_passes(make, scale):
    model = make(**CROSS, global_cond_dim=6, prepend_cond_dim=10)
    kept = {"global_embed": T["global"]}
    conditional = model(T["x"], T["t"], T["cross"], prepend_cond=T["prepend"], **kept)
    unconditional = model(T["x"], T["t"], torch.zeros_like(T["cross"]), prepend_cond=torch.zeros_like(T["prepend"]), **kept)
    guided = model(T["x"], T["t"], T["cross"], prepend_cond=T["prepend"], cfg_scale=scale, **kept)
    torch.testing.assert_close(guided, unconditional + (conditional - unconditional) * scale, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("phi", [0.3, 1.0])
def test_rescaled_guidance(make, phi):
    model = make(**CROSS)
    conditional = model(T["x"], T["t"], T["cross"])
    guided = model(T["x"], T["t"], T["cross"], cfg_scale=5.0)
    restored = guided * conditional.std(dim=1, keepdim=True) / guided.std(dim=1, keepdim=True)
    rescaled = model(T["x"], T["t"], T["cross"], cfg_scale=5.0, scale_phi=phi)
    torch.testing.assert_close(rescaled, phi * restored + (1 - phi) * guided, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("with_mask", [False, True])
def test_negative_condition_takes_the_place_of_nothing(make, with_mask):
    model = make(**CROSS)
    negative = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(9))
    mask = torch.tensor([[1, 1, 0, 0, 0], [1, 1, 1, 1, 0]]).bool() if with_mask else None
    conditional = model(T["x"], T["t"], T["cross"])
    unconditional = model(T["x"], T["t"], negative * mask[..., None] if with_mask else negative)
    guided = model(T["x"], T["t"], T["cross"], negative_cross_attn_cond=negative, negative_cross_attn_mask=mask, cfg_scale=3.0)
    torch.testing.assert_close(guided, unconditional + (conditional - unconditional) * 3, atol=1e-4, rtol=1e-4)


def test_the_negative_of_itself_is_no_guidance(make):
    model = make(**CROSS)
    guided = model(T["x"], T["t"], T["cross"], negative_cross_attn_cond=T["cross"], cfg_scale=9.0)
    torch.testing.assert_close(guided, model(T["x"], T["t"], T["cross"]), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("objective", "level"), [("v", 0.7071), ("rectified_flow", 0.5), ("rf_denoiser", 0.5)])
def test_guidance_acts_in_its_interval_of_noise_levels_only(make, objective, level):
    """At t = 1/2 the noise level is sin(pi/4) for v, and t for flows."""
    model = make(**CROSS, diffusion_objective=objective)
    t = torch.full((2,), 0.5)
    plain, guided = model(T["x"], t, T["cross"]), model(T["x"], t, T["cross"], cfg_scale=4.0)
    assert not torch.allclose(plain, guided, atol=1e-3)
    inside, below, above = (level - 0.05, level + 0.05), (0.0, level - 0.05), (level + 0.05, 1.0)
    assert torch.equal(model(T["x"], t, T["cross"], cfg_scale=4.0, cfg_interval=inside), guided)
    for interval in (below, above):
        assert torch.equal(model(T["x"], t, T["cross"], cfg_scale=4.0, cfg_interval=interval), plain)


def test_nothing_to_leave_out_means_no_guidance(make):
    model = make(global_cond_dim=6)
    guided = model(T["x"], T["t"], global_embed=T["global"], cfg_scale=5.0)
    assert torch.equal(guided, model(T["x"], T["t"], global_embed=T["global"]))


def test_dropping_equals_passes_without_the_condition(make):
    model = make(**CROSS)
    torch.manual_seed(0)
    is_null = torch.bernoulli(torch.full((2, 1, 1), 0.5)).bool()
    assert is_null.any() and not is_null.all()
    torch.manual_seed(0)
    out = model(T["x"], T["t"], T["cross"], cfg_dropout_prob=0.5)
    torch.testing.assert_close(out, model(T["x"], T["t"], torch.where(is_null, 0.0, T["cross"])))


def test_dropping_draws_nothing_without_need(make):
    model = make(**CROSS)
    state = torch.get_rng_state()
    model(T["x"], T["t"], T["cross"], cfg_dropout_prob=0.0)
    model(T["x"], T["t"], T["cross"], cfg_dropout_prob=0.5, cfg_scale=2.0)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("options", "argument", "value"),
    [
        (CROSS, "cross_attn_cond", T["cross"]),
        ({"cond_token_dim": 8, "project_cond_tokens": False, "num_heads": 4}, "cross_attn_cond", T["cross"]),
        ({"global_cond_dim": 6}, "global_embed", T["global"]),
        ({"global_cond_dim": 6, "global_cond_type": "adaLN"}, "global_embed", T["global"]),
        ({"prepend_cond_dim": 10}, "prepend_cond", T["prepend"]),
        ({"input_concat_dim": 2}, "input_concat_cond", T["concat"]),
    ],
)
@pytest.mark.parametrize("time", ["global", "input_concat"])
def test_every_condition_has_an_effect_and_items_do_not_mix(make, options, argument, value, time):
    model = make(**options, timestep_cond_type=time, **({"timestep_embed_dim": 16} if time == "input_concat" else {}))
    out = model(T["x"], T["t"], **{argument: value})
    assert out.shape == T["x"].shape
    assert not torch.allclose(out, model(T["x"], T["t"], **{argument: value.flip(0)}), atol=1e-3)
    assert not torch.allclose(out, model(T["x"], 1 - T["t"], **{argument: value}), atol=1e-3)
    torch.testing.assert_close(model(T["x"][1:], T["t"][1:], **{argument: value[1:]}), out[1:], atol=1e-4, rtol=1e-4)


def test_masks_have_no_effect_as_published_models_were_trained(make):
    model = make(**CROSS, prepend_cond_dim=10)
    given = {"cross_attn_cond": T["cross"], "prepend_cond": T["prepend"]}
    masks = {"cross_attn_cond_mask": torch.zeros(2, 5), "prepend_cond_mask": torch.zeros(2, 3), "mask": torch.zeros(2, 6)}
    assert torch.equal(model(T["x"], T["t"], **given, **masks), model(T["x"], T["t"], **given))


def test_zero_tokens_stay_zero_through_the_projection(make):
    model = make(**CROSS)
    assert not model.to_cond_embed(torch.zeros(1, 2, 8)).any()


def test_concatenated_input_of_another_length_is_repeated(make):
    model = make(input_concat_dim=2)
    short = T["concat"][..., :3]
    out = model(T["x"], T["t"], input_concat_cond=short)
    assert torch.equal(out, model(T["x"], T["t"], input_concat_cond=short.repeat_interleave(2, dim=-1)))


def test_hidden_states_and_early_exit(make):
    model = make(**CROSS, global_cond_dim=6)
    given = {"cross_attn_cond": T["cross"], "global_embed": T["global"]}
    hidden = model(T["x"], T["t"], **given, exit_layer_ix=0)
    assert hidden.shape == (2, 1 + 6, 32)  # the global token, then the frames
    out, info = model(T["x"], T["t"], **given, return_info=True)
    assert torch.equal(out, model(T["x"], T["t"], **given)) and torch.equal(info["hidden_states"][0], hidden)
    guided, info = model(T["x"], T["t"], **given, return_info=True, cfg_scale=3.0)
    torch.testing.assert_close(guided, info["uncond_output"] + (out - info["uncond_output"]) * 3, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("patch", [1, 2, 3])
def test_patches(make, patch):
    model = make(patch_size=patch)
    assert model(T["x"], T["t"]).shape == (2, 4, 6)
    assert model.transformer.project_in.weight.shape == (32, 4 * patch)
    hidden = model(T["x"], T["t"], exit_layer_ix=1)
    assert hidden.shape[1] == 1 + 6 // patch


def test_inputs_are_cast_to_the_model(make):
    model = make(**CROSS)
    exact = model(T["x"], T["t"], T["cross"], cfg_scale=2.0)
    half = model.bfloat16()(T["x"], T["t"], T["cross"], cfg_scale=2.0)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), exact, atol=0.1 * float(exact.abs().max()), rtol=0)


def test_starts_with_small_output_and_identity_convolutions():
    torch.manual_seed(0)
    model = DiffusionTransformer(**SMALL)
    assert not model.preprocess_conv.weight.any() and not model.postprocess_conv.weight.any()
    assert model(T["x"], T["t"]).std() < 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 3}, "dit: embed_dim must be a multiple of num_heads, got 32 and 3"),
        ({"timestep_cond_type": "input_concat"}, "needs timestep_embed_dim"),
        (
            {"global_cond_dim": 6, "project_global_cond": False},
            "without project_global_cond, global_cond_dim must be embed_dim, got 6 and 32",
        ),
        ({"cond_token_dim": 12, "project_cond_tokens": False}, "attention of width 32 with 16 features per head and context width 12"),
        ({"diffusion_objective": "w"}, "unknown diffusion objective 'w'"),
    ],
)
def test_impossible_widths(options, message):
    with pytest.raises(ConfigError, match=message):
        DiffusionTransformer(**{**SMALL, **options})


# ---- the wrapper ---------------------------------------------------------------------------------------------------------------------


def test_wrapper_translates_names_and_ignores_what_published_models_ignore(make):
    wrapper = make(DiTWrapper, **CROSS, global_cond_dim=6, prepend_cond_dim=10, input_concat_dim=2)
    out = wrapper(
        T["x"], T["t"], cross_attn_cond=T["cross"], cross_attn_mask=torch.ones(2, 5), global_cond=T["global"],
        prepend_cond=T["prepend"], prepend_cond_mask=torch.ones(2, 3), input_concat_cond=T["concat"],
        negative_global_cond=T["global"] * 2, negative_input_concat_cond=T["concat"] * 2, rescale_cfg=True, cfg_scale=2.0,
    )  # fmt: skip
    expected = wrapper.model(
        T["x"], T["t"], T["cross"], global_embed=T["global"], prepend_cond=T["prepend"], input_concat_cond=T["concat"], cfg_scale=2.0
    )
    assert torch.equal(out, expected)
    assert wrapper.length_multiple == 1 and all(name.startswith("model.") for name in wrapper.state_dict())


def test_wrapper_refuses_what_nobody_knows(make):
    with pytest.raises(TypeError, match="cfg_scal"):
        make(DiTWrapper)(T["x"], T["t"], cfg_scal=2.0)


# ---- computed once -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"attn_kwargs": {"differential": True, "qk_norm": "ln"}}, {"final_cross_attn_ix": 0}])
@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_precomputed_keys_and_values_change_nothing(make, options, negative, scale):
    model = make(DiTWrapper, **CROSS, **options)
    conditions = {"cross_attn_cond": T["cross"]}
    if negative:
        mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
        conditions |= {"negative_cross_attn_cond": T["cross"].flip(0), "negative_cross_attn_mask": mask}
    prepared = model.prepare(conditions, T["x"].shape[-1])
    assert set(prepared) == {"keys_values"}
    for cfg_interval in ((0.0, 1.0), (0.0, 1e-9)):  # the second leaves only the conditional pass
        more = {"cfg_scale": scale, "cfg_interval": cfg_interval}
        torch.testing.assert_close(model(T["x"], T["t"], **prepared, **more), model(T["x"], T["t"], **conditions, **more))


def test_a_step_multiplies_by_the_keys_weights_no_more(make):
    model = make(DiTWrapper, **CROSS)
    prepared = model.prepare({"cross_attn_cond": T["cross"]}, T["x"].shape[-1])
    for layer in model.model.transformer.layers:
        layer.cross_attn.to_kv.register_forward_hook(lambda *_: pytest.fail("computed again"))
    model(T["x"], T["t"], **prepared, cfg_scale=3.0)


def test_guidance_without_a_negative_prompt_attends_only_for_its_first_half(make):
    model, rows = make(**CROSS), []
    for layer in model.transformer.layers:
        layer.cross_attn.to_q.register_forward_hook(lambda module, inputs, output: rows.append(inputs[0].shape[0]))
    model(T["x"], T["t"], T["cross"], cfg_scale=3.0)
    assert rows == [2, 2]


ROTARY = {"cross_attn_rotary_pos_emb": True}
AROUND = {  # what else is in the sequence that attends, and so stretches the positions of the keys
    "nothing": ({}, {}),
    "positions from the width": ({"cross_attn_rotary_start": "width"}, {}),
    "memory": ({"num_memory_tokens": 3}, {}),
    "prepended": ({"prepend_cond_dim": 10}, {"prepend_cond": "prepend"}),
    "global token": ({"global_cond_dim": 6}, {"global_cond": "global"}),
    "token without time": (
        {"global_cond_dim": 6, "timestep_cond_type": "input_concat", "timestep_embed_dim": 4},
        {"global_cond": "global"},
    ),
    "no token": ({"timestep_cond_type": "input_concat", "timestep_embed_dim": 4}, {}),
    "adaLN": ({"global_cond_type": "adaLN"}, {}),
    "patches": ({"patch_size": 2}, {}),
}


@pytest.mark.parametrize("name", AROUND)
@pytest.mark.parametrize("length", [4, 16])  # shorter than the context, and longer
def test_precomputed_keys_of_rotary_cross_attention_change_nothing(make, name, length):
    options, given = AROUND[name]
    model = make(DiTWrapper, **CROSS, **ROTARY, **options)
    x = torch.randn(2, T["x"].shape[1], length)
    conditions = {"cross_attn_cond": T["cross"], **{key: T[value] for key, value in given.items()}}
    prepared = model.prepare(conditions, length)
    assert "cross_attn_cond" not in prepared
    torch.testing.assert_close(model(x, T["t"], **prepared, cfg_scale=3.0), model(x, T["t"], **conditions, cfg_scale=3.0))


def test_rotary_cross_attention_minds_the_positions_of_keys(make):
    conditions = {"cross_attn_cond": T["cross"]}
    model = make(DiTWrapper, **CROSS, **ROTARY)
    assert not torch.allclose(model(T["x"], T["t"], **conditions), make(DiTWrapper, **CROSS)(T["x"], T["t"], **conditions))
    moved = make(DiTWrapper, **CROSS, **ROTARY, cross_attn_rotary_start="width")
    assert not torch.allclose(model(T["x"], T["t"], **conditions), moved(T["x"], T["t"], **conditions))


# ---- padding -----------------------------------------------------------------------------------------------------------------------

NETWORKS = {
    "plain": {},
    "memory and prepended": {"num_memory_tokens": 3, "prepend_cond_dim": 10},
    "adaLN": {"global_cond_type": "adaLN", "norm_type": "rms_norm", "attn_kwargs": {"qk_norm": "rms", "differential": True}},
    "window": {"sliding_window": [2, 1]},
    "narrow window": {"sliding_window": [1, 1], "num_memory_tokens": 2},
    "means over time": {"attn_kwargs": {"feat_scale": True}},
    "conformer": {"conformer": True},
    "convolutions": {"ff_kwargs": {"use_conv": True, "glu": False}},
    "patches": {"patch_size": 2},
    "local": {"local_add_cond_dim": 2},
}


def padded_pair(model, options, extra=0, cfg_scale=1.0):
    """The same items alone and with padding of noise after them."""
    generator = torch.Generator().manual_seed(5)
    long = torch.randn(2, 4, 12 + extra, generator=generator)
    kept = {"cross_attn_cond": T["cross"], "cfg_scale": cfg_scale, "apg_scale": 1.0}
    if "prepend_cond_dim" in options:
        kept["prepend_cond"] = T["prepend"]
    local = {"local_add_cond": torch.randn(2, 2, 12 + extra, generator=generator)} if "local_add_cond_dim" in options else {}
    lengths = (6, 12)
    mask = torch.arange(12 + extra) < torch.tensor(lengths)[:, None]
    together = model(long, T["t"], padding_mask=mask, **kept, **local)
    for item, length in enumerate(lengths):
        rows = slice(item, item + 1)
        alone = model(
            long[rows, :, :length],
            T["t"][rows],
            **{key: value[rows] if torch.is_tensor(value) else value for key, value in kept.items()},
            **{key: value[rows, :, :length] for key, value in local.items()},
        )
        yield together[rows, :, :length], alone


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("extra", [0, 4, 300])
@pytest.mark.parametrize("cfg_scale", [1.0, 4.0])
def test_padding_makes_no_difference(make, name, extra, cfg_scale):
    model = make(**CROSS, **NETWORKS[name])
    for parameter in ("lambda_dc", "lambda_hf"):
        for layer in model.transformer.layers:
            if hasattr(layer.self_attn, parameter):
                getattr(layer.self_attn, parameter).fill_(0.5)
    for padded, alone in padded_pair(model, NETWORKS[name], extra, cfg_scale):
        torch.testing.assert_close(padded, alone, atol=2e-4, rtol=2e-4)


def test_zeroed_values_leak_as_published(make):
    """Version 0.0.20 without its fast kernels: keys of padding keep their weight."""
    model = make(**CROSS, padding_attention="zero_values")
    (padded, alone), (full, same) = padded_pair(model, {})
    assert not torch.allclose(padded, alone, atol=1e-3)
    torch.testing.assert_close(full, same, atol=1e-4, rtol=1e-4)


# ---- local conditions, times --------------------------------------------------------------------------------------------------------


def test_local_conditions_start_without_effect_and_act_where_they_are():
    torch.manual_seed(0)
    model = DiffusionTransformer(**SMALL, local_add_cond_dim=2, modular_local_cond_configs=[{"id": "pitch", "dim": 3}]).eval()
    for layer in model.transformer.layers:
        assert not layer.to_local_embed[2].weight.any() and not layer.modular_local_embeds["pitch"][2].weight.any()
    assert "transformer.layers.1.modular_local_embeds.pitch.0.weight" in model.state_dict()


@pytest.mark.parametrize("memory", [0, 3])
def test_a_local_condition_reaches_its_own_frame_first(make, memory):
    """Without attention, nothing but the frame itself changes."""
    model = make(local_add_cond_dim=2, num_memory_tokens=memory, depth=1)
    local = torch.zeros(2, 2, 6)
    moved = local.clone()
    moved[:, :, 4] = 1.0
    before, after = (model(T["x"], T["t"], local_add_cond=value) for value in (local, moved))
    changed = (before - after).abs().amax(dim=(0, 1)) > 1e-6
    assert changed.tolist() == [False, False, False, False, True, False]


def test_modular_conditions_add_up_and_may_be_absent(make):
    model = make(modular_local_cond_configs=[{"id": "pitch", "dim": 2}, {"id": "loudness", "dim": 2}])
    pitch, loudness = T["concat"], T["concat"].flip(0)
    none = model(T["x"], T["t"])
    assert torch.equal(none, model(T["x"], T["t"], modular_local_cond={}))
    one = model(T["x"], T["t"], modular_local_cond={"pitch": pitch})
    both = model(T["x"], T["t"], modular_local_cond={"pitch": pitch, "loudness": loudness})
    assert not torch.allclose(none, one) and not torch.allclose(one, both)


def test_local_conditions_need_a_token_per_frame():
    with pytest.raises(ConfigError, match="local conditions are per latent frame, so patch_size must be 1, got 2"):
        DiffusionTransformer(**SMALL, patch_size=2, local_add_cond_dim=2)


def test_expo_times_have_no_parameters_and_any_number_of_features():
    model = DiffusionTransformer(**SMALL, timestep_features_type="expo", timestep_features_dim=64)
    assert not any(key.startswith("timestep_features") for key in model.state_dict())
    assert tuple(model.to_timestep_embed[0].weight.shape) == (32, 64)


def test_log_snr_times_keep_the_ends():
    model = DiffusionTransformer(**SMALL, timestep_features_type="expo", timestep_features_logsnr=True)
    plain = DiffusionTransformer(**SMALL, timestep_features_type="expo")
    ends = torch.tensor([0.0, 1.0])
    torch.testing.assert_close(model._time_features(ends), plain._time_features(ends), atol=5e-2, rtol=0)
    t = torch.tensor([0.3])
    expected = (5 - torch.log((1 - t) / t)) / 17
    torch.testing.assert_close(model._time_features(t), plain._time_features(expected), atol=1e-3, rtol=0)


def test_times_stay_exact_in_half_precision():
    """A frequency of 10000 needs all digits of the time, whatever the network computes in."""
    model = DiffusionTransformer(**SMALL, timestep_features_type="expo").to(torch.bfloat16)
    seen = []
    model.to_timestep_embed.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].float()))
    t = torch.tensor([0.123456, 0.9])
    model(T["x"], t)
    exact = DiffusionTransformer(**SMALL, timestep_features_type="expo")._time_features(t)
    torch.testing.assert_close(seen[0], exact, atol=5e-3, rtol=0)


# ---- what does not fit -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 4, 15), r"backbone 'dit' takes a signal of the shape \(batch, 4, multiple of 4\), got \(2, 4, 15\)"),
        ((2, 5, 16), r"\(batch, 4, multiple of 4\), got \(2, 5, 16\)"),
        ((4, 16), r"got \(4, 16\)"),
        ((2, 4, 0), r"got \(2, 4, 0\)"),
    ],
)
def test_latents_of_a_wrong_shape(make, shape, message):
    with pytest.raises(AudioError, match=message):
        make(patch_size=4)(torch.zeros(shape), torch.zeros(2))


@pytest.mark.parametrize("guidance", [{}, {"cfg_scale": 3.0}])
def test_one_condition_for_the_whole_batch(make, guidance):
    model, given = make(cond_token_dim=8, global_cond_dim=6, prepend_cond_dim=10, input_concat_dim=2), tensors()
    names = {"cross_attn_cond": "cross", "global_embed": "global", "prepend_cond": "prepend", "input_concat_cond": "concat"}
    one = {name: given[key][:1] for name, key in names.items()}
    negative = {"negative_cross_attn_cond": given["cross"][1:]} if guidance else {}
    repeated = {name: value.expand(2, *value.shape[1:]) for name, value in (one | negative).items()}
    x, t = given["x"], given["t"]
    torch.testing.assert_close(model(x, t, **one, **negative, **guidance), model(x, t, **repeated, **guidance))


def test_conditions_for_another_number_of_items(make):
    model, given = make(cond_token_dim=8), tensors(batch=3)
    with pytest.raises(ConfigError, match="cross_attn is for 2 items, but the batch has 3; give one for each, or one for all"):
        model(given["x"], given["t"], cross_attn_cond=given["cross"][:2])
