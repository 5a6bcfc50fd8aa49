"""Configs of inpainting models, and whose numbers a config asks for."""

import pytest

from stable_audio_tools.config.check import check_model_config, parse_model_config
from stable_audio_tools.errors import ConfigError

IDS = ["inpaint_mask", "inpaint_masked_input"]


@pytest.fixture
def config(dit_config):
    def make(dit=None, **diffusion):
        made = dit_config(**(dit or {}))
        made["model_type"] = "diffusion_cond_inpaint"
        made["model"]["diffusion"] |= diffusion
        return made

    return make


@pytest.mark.parametrize(
    ("dit", "diffusion", "message"),
    [
        ({"input_concat_dim": 8}, {"input_concat_ids": IDS}, r"input_concat_dim: is 8, but inpaint_mask, inpaint_masked_input have 1 \+ 8"),
        ({"local_add_cond_dim": 10}, {"local_add_cond_ids": IDS}, r"local_add_cond_dim: is 10, but .* have 1 \+ 8 channels"),
        ({"local_add_cond_dim": 9}, {"local_add_cond_ids": [*IDS, "pitch"]}, "'pitch' is not an id in conditioning.configs"),
        ({}, {"sampling_version": "0.0.18"}, "sampling_version"),
        ({}, {"sampling_distribution_shift_options": {"type": "fulll"}}, "sampling_distribution_shift_options.type.*did you mean 'full'"),
        ({}, {"distribution_shift_options": {"rate": 1.0}}, "distribution_shift_options.rate: unknown key"),
        ({}, {"modular_local_cond_configs": [{"id": "pitch"}]}, "modular_local_cond_configs"),
    ],
)
def test_what_does_not_fit_is_said(config, dit, diffusion, message):
    with pytest.raises(ConfigError, match=message):
        parse_model_config(config(dit, **diffusion))


def test_a_model_that_cannot_see_the_gaps_is_warned_about(config):
    (mistake,) = check_model_config(config())
    assert mistake.kind == "warning"
    assert "inpaint_mask and inpaint_masked_input are in neither input_concat_ids nor local_add_cond_ids" in mistake.message


@pytest.mark.parametrize(
    ("dit", "diffusion", "version"),
    [
        ({}, {}, "0.0.19"),
        ({}, {"distribution_shift_options": {"min_length": 16}}, "0.0.19"),
        ({"attn_kwargs": {"qk_norm": "ln"}}, {}, "0.0.19"),
        ({}, {"distribution_shift_options": {"type": "full"}}, "0.0.20"),
        ({"attn_kwargs": {"qk_norm": "rms"}}, {}, "0.0.20"),
        ({"timestep_features_type": "expo"}, {}, "0.0.20"),
        ({"norm_type": "rms_norm"}, {}, "0.0.20"),
        ({}, {"mask_padding_attention": True}, "0.0.20"),
        ({}, {"use_effective_length_for_schedule": True}, "0.0.20"),
        ({}, {"modular_local_cond_configs": [{"id": "pitch", "dim": 2}]}, "0.0.20"),
        ({}, {"mask_padding_attention": True, "sampling_version": "0.0.19"}, "0.0.19"),
        ({}, {"sampling_version": "0.0.20"}, "0.0.20"),
    ],
)
def test_whose_numbers_a_config_gets(config, dit, diffusion, version):
    assert parse_model_config(config(dit, **diffusion)).model.diffusion.version() == version
