"""The check of whole configs: every mistake, once, in file order, where it stands."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from stable_audio_tools.config.check import check_dataset_config, check_model_config, check_source
from stable_audio_tools.config.model import MODEL_CONFIGS
from stable_audio_tools.config.source import read_source
from stable_audio_tools.families import DATASETS

AE, IDS, DIT = "model.pretransform.config", "model.conditioning.configs", "model.diffusion"
BROKEN = """{
  "model_type": "diffusion_cond",
  "sample_rat": 8000,
  "sample_size": 1000,
  "model": {
    "comment": "notes are fine everywhere",
    "pretransform": {
      "type": "autoencoder",
      "config": {
        "encoder": {"type": "oobleck", "config": {"in_channels": 1, "c_mults": [1, 2], "strides": [4, 4], "latent_dim": 4}},
        "decoder": {
          "type": "ooblek", "_why": "a typing error"
        },
        "bottleneck": {"type": "vae"},
        "latent_dim": 4,
        "downsampling_ratio": 16,
        "io_channels": 1
      }
    },
    "conditioning": {
      "configs": [
        {"id": "prompt", "type": "byte_text", "config": {"max_len": 16}},
        {"id": "seconds_total", "type": "number", "config": {"min_val": 0, "max_val": "loud"}}
      ],
      "cond_dim": 8
    },
    "diffusion": {
      "type": "dit",
      "cross_attention_cond_ids": ["prompt", "secs_total"],
      "config": {"io_channels": 4, "embed_dim": 16, "cond_token_dim": 8,
                 "attn_kwargs": {"qk_norm": "lnn", "_x": 1}}
    },
    "io_channels": 4
  },
  "training": {"learning_rate": 1e-3, "use_ema": "yes"}
}
"""


def test_a_file_broken_in_ten_places(report: Callable[[str], list[Any]]) -> None:
    assert [f"{line}:{column}  {path}: {message}" for line, column, path, message in report(BROKEN)] == [
        "1:1  sample_rate: required key is missing",
        "3:3  sample_rat: unknown key; did you mean 'sample_rate'?",
        "10:107  model.pretransform.config.encoder.config.latent_dim: "
        "is 4, but must be 8 (2 x latent_dim, since a 'vae' bottleneck needs mean and scale)",
        "12:11  model.pretransform.config.decoder.type: unknown decoder 'ooblek'; did you mean 'oobleck'?",
        "22:58  model.conditioning.configs[0].config.max_len: unknown key; did you mean 'max_length'?",
        "23:76  model.conditioning.configs[1].config.max_val: input should be a valid number, got 'loud'",
        "29:46  model.diffusion.cross_attention_cond_ids[1]: 'secs_total' is not an id in conditioning.configs; "
        "it has: prompt, seconds_total",
        "31:34  model.diffusion.config.attn_kwargs.qk_norm: input should be 'none', 'l2', 'ln', 'rms' or 'dyt', got 'lnn'",
        "35:39  training.use_ema: input should be a valid boolean, got 'yes'",
    ]


def test_the_repaired_file_is_fine(report: Callable[[str], list[Any]]) -> None:
    repairs = {
        '"sample_rat"': '"audio_channels": 1, "sample_rate"', "1000": "1024",
        '"strides": [4, 4], "latent_dim": 4': '"strides": [4, 4], "latent_dim": 8',
        '"ooblek",': '"oobleck", "config": {"out_channels": 1, "c_mults": [1, 2], "strides": [4, 4], "latent_dim": 4},',
        "max_len": "max_length", '"loud"': "10", "secs_total": "seconds_total", '"lnn"': '"ln"', '"yes"': "true",
    }  # fmt: skip
    text = BROKEN
    for wrong, right in repairs.items():
        text = text.replace(wrong, right, 1)
    assert report(text) == []


# ---- single mistakes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "value", "inside", "message"),
    [
        ("sample_rate", "44100", "", "input should be a valid integer, got '44100'"),
        ("sample_rate", 0, "", "input should be greater than 0, got 0"),
        ("sample_rate", 22050.0, "", "input should be a valid integer, got 22050.0"),
        ("sample_rate", True, "", "input should be a valid integer, got True"),
        ("sample_rate", float("nan"), "", "input should be a valid integer, got nan"),
        ("model", [], "", "input should be an object, got []"),
        ("model", None, "", "input should be an object, got None"),
        ("model.io_chanels", 4, "", "unknown key; did you mean 'io_channels'?"),
        ("model.pretransform", "autoencoder", "", "input should be an object, got 'autoencoder'"),
        ("model.pretransform.scale", float("inf"), "", "input should be a finite number, got inf"),
        ("model.pretransform.type", "autoencodr", "", "unknown pretransform 'autoencodr'; did you mean 'autoencoder'?"),
        ("model.pretransform.config", None, "", "input should be an object, got None"),
        (AE + ".latent_dim", "32", "", "input should be a valid integer, got '32'"),
        (AE + ".encoder.config.strides", "44", "", "input should be a list, got '44'"),
        (AE + ".encoder.config.strides.0", "4", "", "input should be a valid integer, got '4'"),
        (AE + ".encoder.config.latent_dim", "64", "", "input should be a valid integer, got '64'"),
        (AE + ".bottleneck.config", {"kl": 1}, ".kl", "unknown key"),
        ("model.conditioning.configs", {}, "", "input should be a list, got {}"),
        (IDS + ".1", 3, "", "input should be an object, got 3"),
        (IDS + ".1.type", 3, "", "input should be a valid string, got 3"),
        (IDS + ".1.config.output_dim", "9", "", "input should be a valid integer, got '9'"),
        (DIT + ".config", [], "", "input should be an object, got []"),
        (DIT + ".config.dept", 3, "", "unknown key; did you mean 'depth'?"),
        (DIT + ".config.patch_size", "2", "", "input should be a valid integer, got '2'"),
        (DIT + ".config.cond_token_dim", "256", "", "input should be a valid integer, got '256'"),
        (DIT + ".config.ff_kwargs", {"mlt": 2}, ".mlt", "unknown key; did you mean 'mult'?"),
        (DIT + ".config.norm_kwargs", 3, "", "input should be an object, got 3"),
        (DIT + ".diffusion_objective", "velocity", "", "unknown diffusion objective 'velocity'; known: rectified_flow, rf_denoiser, v"),
        (DIT + ".diffusion_objective", "nowhere:V", "",
         "diffusion objective 'nowhere:V': cannot read module 'nowhere' (no Python source found); is it installed, or on PYTHONPATH?"),
        (DIT + ".distribution_shift_options", {"type": "ful"}, ".type", "unknown distribution shift 'ful'; did you mean 'full'?"),
        (DIT + ".distribution_shift_options", {"type": 3}, ".type", "input should be a valid string, got 3"),
        (DIT + ".distribution_shift_options", {"max_len": 3}, ".max_len", "unknown key; did you mean 'max_length'?"),
        ("training.timestep_sampler", "lognormal", "", "unknown timestep sampler 'lognormal'; did you mean 'logit_normal'?"),
        ("training.timestep_sampler_options", {"mean": 1.0}, ".mean", "unknown key"),
        ("training.optimizer_configs.diffusion.scheduler.config.inv_gama", 2, "", "unknown key; did you mean 'inv_gamma'?"),
        ("training.optimizer_configs.difusion", {}, "", "unknown key; did you mean 'diffusion'?"),
        ("training.cfg_dropout_prob", 1.5, "", "input should be less than or equal to 1, got 1.5"),
        ("training.demo.demo_cfg_scales", 4, "", "input should be a list, got 4"),
    ],
)  # fmt: skip
def test_one_mistake_is_one_line_where_it_stands(
    small_text: dict[str, Any], edited: Any, report: Any, path: str, value: Any, inside: str, message: str
) -> None:
    text = json.dumps(edited(small_text, {path: value}), indent=2)
    (line,) = report(text)
    assert (line.path, line.message) == (re.sub(r"\.(\d+)", r"[\1]", path) + inside, message)
    key = line.path.rpartition(".")[2]
    if not key.endswith("]"):
        assert text.splitlines()[line.line - 1][line.column - 1 :].startswith(f'"{key}":')


@pytest.mark.parametrize(
    ("path", "where"),
    [
        ("sample_rate", "sample_rate"),
        ("model", "model"),
        ("model.io_channels", "model.io_channels"),
        ("model.diffusion", "model.diffusion"),
        ("model.diffusion.type", "model.diffusion.type"),
        ("model.conditioning.configs.1.id", "model.conditioning.configs[1].id"),
        ("model.pretransform.config.encoder", "model.pretransform.config.encoder"),
        ("model.pretransform.config.latent_dim", "model.pretransform.config.latent_dim"),
        ("training.demo.num_demos", "training.demo.num_demos"),
        ("training.optimizer_configs.diffusion.optimizer", "training.optimizer_configs.diffusion.optimizer"),
    ],
)
def test_a_missing_key_is_one_line_at_its_parent(
    small_text: dict[str, Any], edited: Any, delete: object, report: Any, path: str, where: str
) -> None:
    text = json.dumps(edited(small_text, {path: delete}), indent=2)
    (line,) = report(text)
    assert (line.path, line.message) == (where, "required key is missing")
    parent = where.rpartition(".")[0].rpartition(".")[2]
    here = text.splitlines()[line.line - 1][line.column - 1 :]
    assert here.startswith("{" if not parent or parent.endswith("]") else f'"{parent}":')


def test_loss_configs_are_checked(full_vae: dict[str, Any], edited: Any, report: Any) -> None:
    changes = {
        "training.loss_configs.spectral.config.fft_size": [3],
        "training.loss_configs.discriminator.config.n_fft": [3],
        "training.loss_configs.discriminator.weights.feature_match": 1.0,
        "training.loss_configs.bottleneck.weights.kld": 1.0,
    }
    found = {line.path: line.message for line in report(json.dumps(edited(full_vae, changes), indent=2))}
    assert found == {
        "training.loss_configs.spectral.config.fft_size": "unknown key; did you mean 'fft_sizes'?",
        "training.loss_configs.discriminator.config.n_fft": "unknown key; did you mean 'n_ffts'?",
        "training.loss_configs.discriminator.weights.feature_match": "unknown key; did you mean 'feature_matching'?",
        "training.loss_configs.bottleneck.weights.kld": "unknown key; did you mean 'kl'?",
    }


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([1, 2], "a model config is an object, got [1, 2]"),
        ("text", "a model config is an object, got 'text'"),
        (None, "a model config is an object, got None"),
        ({}, "needs model_type (a model config) or dataset_type (a dataset config)"),
        ({"model_type": "autoencodr"}, "model_type: unknown model_type 'autoencodr'; did you mean 'autoencoder'?"),
        ({"model_type": "xyz"}, f"model_type: unknown model_type 'xyz'; known: {', '.join(MODEL_CONFIGS)}"),
        ({"model_type": ["lm"]}, "model_type: input should be a valid string, got ['lm']"),
        ({"dataset_type": "audio_dri"}, "dataset_type: unknown dataset_type 'audio_dri'; did you mean 'audio_dir'?"),
        ({"dataset_type": 3}, "dataset_type: input should be a valid string, got 3"),
    ],
)
def test_what_is_no_config_at_all(report: Any, data: object, message: str) -> None:
    (line,) = report(json.dumps(data))
    assert (f"{line.path}: {line.message}" if line.message else line.path) == message


def test_missing_types_list_the_choices() -> None:
    (mistake,) = check_model_config({"model": {}})
    assert mistake.message == f"model_type: required key is missing; one of {', '.join(MODEL_CONFIGS)}"
    (mistake,) = check_dataset_config({"datasets": []})
    assert mistake.message == f"dataset_type: required key is missing; one of {', '.join(DATASETS.names())}"


@pytest.mark.parametrize(
    ("path", "value", "where", "message"),
    [
        ("random_crpo", True, "random_crpo", "unknown key; did you mean 'random_crop'?"),
        ("datasets.0.captionsfile", "x", "datasets[0].captionsfile", "unknown key; did you mean 'captions_file'?"),
        ("datasets.0.path", 3, "datasets[0].path", "input should be a valid string, got 3"),
        ("datasets", {}, "datasets", "input should be a list, got {}"),
        ("datasets.0", "folder", "datasets[0]", "input should be an object, got 'folder'"),
        ("dataset_type", "nowhere:Data", "dataset_type", "dataset type 'nowhere:Data': cannot read module 'nowhere' (no Python source "
         "found); is it installed, or on PYTHONPATH?"),
    ],
)  # fmt: skip
def test_dataset_configs(edited: Any, report: Any, path: str, value: Any, where: str, message: str) -> None:
    config = {"dataset_type": "audio_dir", "_note": 1, "datasets": [{"id": "a", "path": "b", "comment": "fine", "caption": "c"}]}
    assert report(json.dumps(config)) == []
    (line,) = report(json.dumps(edited(config, {path: value}), indent=1))
    assert (line.path, line.message) == (where, message)


# ---- whatever is wrong ---------------------------------------------------------------------------------------------------------


def locations(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    yield path
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from locations(item, (*path, key))


@pytest.mark.parametrize("name", ["small_text", "full_vae"])
def test_nothing_crashes_the_check_nor_is_said_twice(name: str, request: pytest.FixtureRequest, edited: Any, report: Any) -> None:
    config = request.getfixturevalue(name)
    rng = random.Random(0)
    places = [".".join(map(str, location)) for location in locations(config) if location]
    for place in rng.sample(places, 60):
        for value in rng.sample([None, "x", -1, 0, 1.5, True, [], ["x"], {}, {"type": "x"}, {"type": 3, "config": []}], 3):
            lines = report(json.dumps(edited(config, {place: value}), indent=1))
            assert lines == sorted(lines, key=lambda line: line[:2])
            assert len({(line.path, line.message) for line in lines}) == len(lines)
            exact = [line for line in lines if line.path.replace("[", ".").replace("]", "") == place]
            assert len(exact) <= 1, exact


def test_notes_are_fine_everywhere(small_text: dict[str, Any], full_vae: dict[str, Any], edited: Any) -> None:
    for config in (small_text, full_vae):
        for location in locations(config):
            node: Any = config
            for key in location:
                node = node[key]
            if isinstance(node, dict):
                path = "".join(f"{key}." for key in location)
                noted = edited(config, {f"{path}_note": 1, f"{path}comment": ["x"], f"{path}_type": {"a": None}})
                assert check_source(read_source(noted)) == [], path
