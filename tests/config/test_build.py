"""Building from Python: forgiving about the trunk, strict about the parts, and the config stays as it was."""

from __future__ import annotations

import copy
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from stable_audio_tools import create_model_from_config, create_model_from_config_path
from stable_audio_tools.config.check import parse_block, parse_model_config
from stable_audio_tools.config.model import ConditioningModel, PretransformBlock
from stable_audio_tools.errors import ConfigError
from stable_audio_tools.models.factory import (
    create_bottleneck_from_config,
    create_diffusion_cond_from_config,
    create_multi_conditioner_from_conditioning_config,
    create_pretransform_from_config,
)
from stable_audio_tools.training import create_demo_callback_from_config, create_training_wrapper_from_config


def weights(config: dict[str, Any]) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return create_model_from_config(config).state_dict()


@pytest.mark.parametrize("kind", ["tiny_autoencoder", "tiny_diffusion"])
def test_two_builds_from_one_config_are_equal_and_leave_it_alone(kind: str, request: pytest.FixtureRequest) -> None:
    config = request.getfixturevalue(kind)()
    before = copy.deepcopy(config)
    first, second = weights(config), weights(config)
    assert config == before
    assert list(first) == list(second)
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_training_from_a_config_leaves_it_alone(tiny_autoencoder, tiny_diffusion) -> None:
    for config in (tiny_autoencoder(adversary=True), tiny_diffusion()):
        before = copy.deepcopy(config)
        create_training_wrapper_from_config(config, create_model_from_config(config)).configure_optimizers()
        create_demo_callback_from_config(config)
        assert config == before


def test_a_model_does_not_share_lists_with_its_config(tiny_diffusion) -> None:
    config = tiny_diffusion()
    model = create_model_from_config(config)
    model.cross_attn_cond_ids.append("more")  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]
    assert config == tiny_diffusion()
    config["model"]["diffusion"]["global_cond_ids"].append("more")
    assert "more" not in model.global_cond_ids  # pyright: ignore[reportOperatorIssue]


# ---- unknown trunk keys --------------------------------------------------------------------------------------------------------


def test_an_unknown_trunk_key_warns_once_per_place_and_is_dropped(tiny_diffusion, edited, library_log: pytest.LogCaptureFixture) -> None:
    changes = {"extra": 1, "model.extra": {"a": 1}, "model.pretransform.config.encoder.extra": [2], "model.conditioning.configs.0.extra": 3}
    config = edited(tiny_diffusion(), changes)
    before = copy.deepcopy(config)
    torch.manual_seed(0)
    state = create_model_from_config(config).state_dict()
    assert sorted(record.message.split(": ")[1] for record in library_log.records) == [
        "extra",
        "model.conditioning.configs[0].extra",
        "model.extra",
        "model.pretransform.config.encoder.extra",
    ]
    assert all(record.message.endswith("(ignored)") and record.levelno == logging.WARNING for record in library_log.records)
    assert config == before
    assert all(torch.equal(value, state[key]) for key, value in weights(tiny_diffusion()).items())
    library_log.clear()
    create_model_from_config(config)
    assert library_log.records == []
    create_model_from_config(edited(config, {"model.diffusion.extra": 1}))  # another place
    assert [record.message.split(": ")[1] for record in library_log.records] == ["model.diffusion.extra"]


def test_the_warning_of_a_file_has_its_position(tiny_autoencoder, edited, tmp_path: Path, library_log: pytest.LogCaptureFixture) -> None:
    text = json.dumps(edited(tiny_autoencoder(), {"model.latent_dimm": 4}), indent=1)
    (tmp_path / "f.json").write_text(text, encoding="utf-8")
    create_model_from_config_path(tmp_path / "f.json")
    line = next(index for index, row in enumerate(text.splitlines(), 1) if "latent_dimm" in row)
    expected = f"{tmp_path}/f.json:{line}:3  model.latent_dimm: unknown key; did you mean 'latent_dim'? (ignored)"
    assert [record.message for record in library_log.records] == [expected]


def test_training_refuses_what_building_warns_about(tiny_diffusion, edited) -> None:
    config = edited(tiny_diffusion(), {"model.extra": 1})
    with pytest.raises(ConfigError, match=r"model config: model\.extra: unknown key"):
        create_training_wrapper_from_config(config, create_model_from_config(config))
    with pytest.raises(ConfigError, match=r"model config: model\.extra: unknown key"):
        create_demo_callback_from_config(config)


def test_training_needs_a_training_section(tiny_diffusion, edited, delete) -> None:
    config = edited(tiny_diffusion(), {"training": delete})
    with pytest.raises(ConfigError, match="the model config has no 'training' section"):
        create_training_wrapper_from_config(config, create_model_from_config(config))


def test_building_does_not_look_at_training(tiny_diffusion, edited, library_log: pytest.LogCaptureFixture) -> None:
    create_model_from_config(edited(tiny_diffusion(), {"training": {"arc": {}, "learning_rate": "fast"}}))
    create_model_from_config(edited(tiny_diffusion(), {"training": "later"}))
    assert library_log.records == []


# ---- mistakes ------------------------------------------------------------------------------------------------------------------


def test_leaf_mistakes_are_errors_all_at_once(tiny_diffusion, edited) -> None:
    changes = {
        "model.diffusion.config.dept": 3,
        "model.conditioning.configs.1.config.max_val": "loud",
        "model.pretransform.config.bottleneck.type": "vea",
        "model.warned_about": 1,
    }
    with pytest.raises(ConfigError) as caught:
        create_model_from_config(edited(tiny_diffusion(), changes))
    assert sorted(str(caught.value).splitlines()) == [
        "model config: model.conditioning.configs[1].config.max_val: input should be a valid number, got 'loud'",
        "model config: model.diffusion.config.dept: unknown key; did you mean 'depth'?",
        "model config: model.pretransform.config.bottleneck.type: unknown bottleneck 'vea'; did you mean 'vae'?",
    ]


@pytest.mark.parametrize("config", [[], None, 3, {}, {"model_type": "autoencoder"}, {"model": {}}])
def test_what_is_no_config(config: Any) -> None:
    with pytest.raises(ConfigError, match=r"^model config: "):
        create_model_from_config(config)


def test_warnings_do_not_stop_a_build(tiny_autoencoder, edited, library_log: pytest.LogCaptureFixture) -> None:
    create_model_from_config(edited(tiny_autoencoder(), {"sample_size": 1000}))
    assert [r.message for r in library_log.records] == [
        "model config: sample_size: warning: 1000 is not a multiple of 16 samples, the model's step; 992 is"
    ]


def test_notes_may_stand_anywhere(tiny_diffusion, edited) -> None:
    changes = {"_a": 1, "model.comment": "x", "model.diffusion.config._b": 2, "model.pretransform.config.encoder.config.comment": []}
    noted = weights(edited(tiny_diffusion(), changes))
    assert all(torch.equal(value, noted[key]) for key, value in weights(tiny_diffusion()).items())


# ---- single blocks -------------------------------------------------------------------------------------------------------------


def test_blocks_by_themselves(library_log: pytest.LogCaptureFixture) -> None:
    block = {"type": "patched", "config": {"channels": 1, "patch_size": 4, "_note": 1}, "comment": "x", "extra": 1}
    assert create_pretransform_from_config(block, 8000).encoded_channels == 4
    assert [record.message for record in library_log.records if "extra" in record.message] != []
    assert not create_bottleneck_from_config({"type": "tanh", "config": {"scale": 2}}).is_discrete
    conditioner = create_multi_conditioner_from_conditioning_config({"cond_dim": 4, "configs": [{"id": "x", "type": "number"}]})
    assert list(conditioner.conditioners) == ["x"]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: create_pretransform_from_config({"type": "patcht"}, 8000), "^pretransform: type: unknown pretransform 'patcht'"),
        (lambda: create_pretransform_from_config({}, 8000), "^pretransform: type: required key is missing$"),
        (lambda: create_bottleneck_from_config({"type": "tanh", "config": {"scal": 1}}), "^bottleneck: config.scal: unknown key; did you"),
        (lambda: create_bottleneck_from_config([]), "^bottleneck: input should be an object"),  # pyright: ignore[reportArgumentType]
        (lambda: create_multi_conditioner_from_conditioning_config({"configs": []}), "^conditioning: cond_dim: required key is missing$"),
    ],
)
def test_mistakes_in_single_blocks(build, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build()


def test_the_wrong_kind_of_model(tiny_autoencoder) -> None:
    with pytest.raises(ConfigError, match="model_type: is 'autoencoder', but must be 'diffusion_cond' here"):
        create_diffusion_cond_from_config(tiny_autoencoder())


def test_parsed_configs_are_frozen_and_typed(tiny_diffusion) -> None:
    parsed = parse_model_config(tiny_diffusion(), strict=True)
    with pytest.raises(ValueError, match="frozen"):
        parsed.sample_rate = 3
    block = parse_block(PretransformBlock, {"type": "mel", "config": {"latent_dim": 7}}, name="x")
    assert (block.width(), block.ratio()) == (7, 512)
    with pytest.raises(ConfigError, match="'a' is used twice"):
        parse_block(ConditioningModel, {"cond_dim": 4, "configs": [{"id": "a", "type": "int"}] * 2}, name="conditioning")
