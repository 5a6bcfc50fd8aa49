"""What must agree between the parts of a config: the message, and the place that has to change."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from stable_audio_tools.config.check import check_model_config


@pytest.fixture
def found(report: Callable[[str], list[Any]], edited: Callable[..., dict[str, Any]]) -> Callable[..., list[tuple[str, str]]]:
    """``found(config, changes)``: (path, message) of every mistake; each stands at the key or item that its path names."""

    def run(config: dict[str, Any], changes: dict[str, Any]) -> list[tuple[str, str]]:
        data = edited(config, changes)
        text = json.dumps(data, indent=1)
        for line in report(text):
            here = text.splitlines()[line.line - 1][line.column - 1 :]
            value: Any = data
            for key in line.path.replace("[", ".").replace("]", "").split("."):
                value = value[int(key) if isinstance(value, list) else key]
            assert here.startswith(f'"{key}": {json.dumps(value, indent=1)[:1]}' if not key.isdigit() else json.dumps(value))
        return [(line.path, line.message) for line in report(text)]

    return run


# ---- autoencoders --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "path", "message"),
    [
        ({"downsampling_ratio": 32}, "downsampling_ratio", "is 32, but encoder.config.strides [4, 4] multiply to 16"),
        ({"decoder.config.strides": [4, 8], "decoder.config.c_mults": [1, 2]}, "downsampling_ratio",
         "is 16, but decoder.config.strides [4, 8] multiply to 32"),
        ({"encoder.config.latent_dim": 4}, "encoder.config.latent_dim",
         "is 4, but must be 8 (2 x latent_dim, since a 'vae' bottleneck needs mean and scale)"),
        ({"bottleneck": {"type": "tanh"}}, "encoder.config.latent_dim", "is 8, but must be 4 (latent_dim)"),
        ({"decoder.config.latent_dim": 8}, "decoder.config.latent_dim", "is 8, but must be 4 (latent_dim)"),
        ({"encoder.config.in_channels": 2}, "encoder.config.in_channels", "is 2, but the model has 1 (io_channels)"),
        ({"decoder.config.out_channels": 2}, "decoder.config.out_channels", "is 2, but the model has 1 (io_channels)"),
    ],
)  # fmt: skip
def test_autoencoder(tiny_autoencoder, tiny_diffusion, found, changes: dict[str, Any], path: str, message: str) -> None:
    at_top = found(tiny_autoencoder(), {f"model.{key}": value for key, value in changes.items()})
    assert (f"model.{path}", message) in at_top
    assert len([line for line in at_top if not line[1].startswith("warning")]) == 1
    nested = found(tiny_diffusion(), {f"model.pretransform.config.{key}": value for key, value in changes.items()})
    assert [line for line in nested if not line[1].startswith("warning")] == [(f"model.pretransform.config.{path}", message)]


def test_the_inner_pretransform_multiplies_the_ratio(tiny_autoencoder, found) -> None:
    inner = {"type": "patched", "config": {"channels": 1, "patch_size": 4}}
    changes = {"model.pretransform": inner, "model.encoder.config.in_channels": 4, "model.decoder.config.out_channels": 4}
    expected = "is 16, but encoder.config.strides [4, 4] multiply to 16 times the pretransform's 4 = 64"
    assert found(tiny_autoencoder(), changes) == [("model.downsampling_ratio", expected)]
    assert found(tiny_autoencoder(), {**changes, "model.downsampling_ratio": 64}) == []


def test_strides_that_disagree_with_everything_are_two_mistakes(tiny_autoencoder, found) -> None:
    changes = {"model.encoder.config.strides": [2, 4], "model.decoder.config.strides": [4, 8]}
    assert [message for _, message in found(tiny_autoencoder(), changes)] == [
        "is 16, but encoder.config.strides [2, 4] multiply to 8",
        "is 16, but decoder.config.strides [4, 8] multiply to 32",
    ]


def test_defaults_count_too(tiny_autoencoder, found, delete) -> None:
    """The default strides multiply to 512; nothing in the file says so."""
    changes = {"model.encoder.config.strides": delete, "model.encoder.config.c_mults": delete}
    expected = "is 16, but encoder.config.strides [2, 4, 8, 8] multiply to 512"
    assert found(tiny_autoencoder(), changes) == [("model.downsampling_ratio", expected)]


def test_the_hop_of_a_spectral_encoder_counts(tiny_autoencoder, found) -> None:
    spectral = {"n_fft": 32, "hop_length": 8, "strides": [4], "dim": 8, "depth": 1}
    changes = {
        "model.encoder": {"type": "spectral", "config": {"in_channels": 1, "latent_dim": 8, **spectral}},
        "model.decoder": {"type": "spectral", "config": {"out_channels": 1, "latent_dim": 4, **spectral}},
    }
    expected = "is 16, but encoder.config.hop_length and strides [8, 4] multiply to 32"
    assert found(tiny_autoencoder(), changes) == [("model.downsampling_ratio", expected)]


@pytest.mark.parametrize("part", ["encoder", "decoder", "bottleneck"])
def test_nothing_is_concluded_about_parts_that_are_not_known(tiny_autoencoder, edited, part: str) -> None:
    """One typing error is one mistake, and parts from elsewhere may be as wide as they like."""
    (mistake,) = check_model_config(edited(tiny_autoencoder(), {f"model.{part}.type": "xyz"}))
    assert mistake.path == f"model.{part}.type"
    foreign = edited(tiny_autoencoder(), {"model.bottleneck.type": "stable_audio_tools.models.bottlenecks.l2_norm:L2Bottleneck"})
    assert check_model_config(foreign) == []


# ---- conditional diffusion -----------------------------------------------------------------------------------------------------

KNOWN = "prompt, seconds_start, seconds_total"


@pytest.mark.parametrize(
    ("changes", "path", "message"),
    [
        ({"diffusion.cross_attention_cond_ids": ["prompt", "secs"]}, "diffusion.cross_attention_cond_ids[1]",
         f"'secs' is not an id in conditioning.configs; it has: {KNOWN}"),
        ({"diffusion.global_cond_ids": ["promt"]}, "diffusion.global_cond_ids[0]",
         f"'promt' is not an id in conditioning.configs; it has: {KNOWN}"),
        ({"diffusion.input_concat_ids": ["mask"]}, "diffusion.input_concat_ids[0]",
         f"'mask' is not an id in conditioning.configs; it has: {KNOWN}"),
        ({"diffusion.prepend_cond_ids": ["x"]}, "diffusion.prepend_cond_ids[0]",
         f"'x' is not an id in conditioning.configs; it has: {KNOWN}"),
        ({"conditioning.default_keys": {"secs": "prompt"}}, "conditioning.default_keys",
         f"'secs' is not an id in conditioning.configs: {KNOWN}"),
        ({"conditioning.pre_encoded_keys": ["prmpt"]}, "conditioning.pre_encoded_keys",
         f"'prmpt' is not an id in conditioning.configs ({KNOWN}), and nothing in diffusion uses it"),
        ({"diffusion.config.cond_token_dim": 12}, "diffusion.config.cond_token_dim",
         "is 12, but condition 'prompt' has 8 channels (cond_dim)"),
        ({"diffusion.config.prepend_cond_dim": 12, "diffusion.prepend_cond_ids": ["prompt"]}, "diffusion.config.prepend_cond_dim",
         "is 12, but condition 'prompt' has 8 channels (cond_dim)"),
        ({"diffusion.config.global_cond_dim": 8}, "diffusion.config.global_cond_dim",
         "is 8, but global_cond_ids seconds_start, seconds_total have 8 + 8 channels"),
        ({"diffusion.config.io_channels": 6}, "diffusion.config.io_channels", "is 6, but model.io_channels is 4"),
        ({"io_channels": 6, "diffusion.config.io_channels": 6}, "io_channels",
         "is 6, but the pretransform gives 4 channels (its latent_dim)"),
    ],
)  # fmt: skip
def test_conditional_diffusion(tiny_diffusion, found, changes: dict[str, Any], path: str, message: str) -> None:
    assert found(tiny_diffusion(), {f"model.{key}": value for key, value in changes.items()}) == [(f"model.{path}", message)]


def test_a_conditioner_may_have_a_width_of_its_own(tiny_diffusion, found) -> None:
    config = tiny_diffusion()
    assert found(config, {"model.conditioning.configs.2.config.output_dim": 6}) == [
        ("model.diffusion.config.cond_token_dim", "is 8, but condition 'seconds_total' has 6 channels (cond_dim)"),
        ("model.diffusion.config.global_cond_dim", "is 16, but global_cond_ids seconds_start, seconds_total have 8 + 6 channels"),
    ]


def test_conditions_that_training_adds_need_no_conditioner(tiny_diffusion, found) -> None:
    changes = {"model.diffusion.input_concat_ids": ["inpaint_mask", "inpaint_masked_input"], "model.diffusion.config.input_concat_dim": 5}
    assert found(tiny_diffusion(), changes) == []


def test_ids_without_any_conditioning(tiny_diffusion, found, delete) -> None:
    changes = {"model.conditioning": delete, "model.diffusion.cross_attention_cond_ids": ["prompt"], "model.diffusion.global_cond_ids": []}
    expected = "'prompt' is not an id in conditioning.configs; there are none"
    assert found(tiny_diffusion(), changes) == [("model.diffusion.cross_attention_cond_ids[0]", expected)]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("seconds_start", "'seconds_start' is used twice; the first one would be lost"),
        ("a.b", "must be a non-empty name without '.', got 'a.b'"),
        ("", "must be a non-empty name without '.', got ''"),
    ],
)
def test_ids_are_names(tiny_diffusion, found, name: str, message: str) -> None:
    changes = {"model.conditioning.configs.2.id": name, "model.diffusion.cross_attention_cond_ids": ["prompt"]}
    changes |= {"model.diffusion.global_cond_ids": ["seconds_start"], "model.diffusion.config.global_cond_dim": 8}
    assert found(tiny_diffusion(), changes) == [("model.conditioning.configs[2].id", message)]


def test_patches_have_a_width_and_a_ratio(tiny_diffusion, found) -> None:
    patched = {"type": "patched", "config": {"channels": 1, "patch_size": 4}}
    assert found(tiny_diffusion(), {"model.pretransform": patched}) == []
    patched = {"type": "patched", "config": {"channels": 2, "patch_size": 4}}
    assert found(tiny_diffusion(), {"model.pretransform": patched}) == [
        ("audio_channels", "is 1, but the model works on audio of 2 channels (model.pretransform.config.channels)"),
        ("model.io_channels", "is 4, but the pretransform gives 8 channels (its channels * patch_size)"),
    ]


# ---- lengths -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "nearest"), [(1000, 992), (1001, 1008), (1009, 1008)])
def test_a_sample_size_between_frames_is_a_warning(tiny_diffusion, tiny_autoencoder, edited, size: int, nearest: int) -> None:
    for config in (tiny_diffusion(), tiny_autoencoder()):
        (mistake,) = check_model_config(edited(config, {"sample_size": size}))
        assert (mistake.path, mistake.kind) == ("sample_size", "warning")
        assert mistake.message == f"warning: {size} is not a multiple of 16 samples, the model's step; {nearest} is"


def test_patches_of_the_transformer_count_too(tiny_diffusion, found) -> None:
    assert found(tiny_diffusion(), {"model.diffusion.config.patch_size": 2, "sample_size": 1040}) == [
        ("sample_size", "1040 is not a multiple of 32 samples, the model's step; 1024 is")
    ]


# ---- training ------------------------------------------------------------------------------------------------------------------


def test_training_needs_a_learning_rate(tiny_diffusion, tiny_autoencoder, found, delete) -> None:
    for config in (tiny_diffusion(), tiny_autoencoder()):
        assert found(config, {"training.learning_rate": delete}) == [("training", "needs learning_rate or optimizer_configs")]


def test_an_adversary_needs_an_optimizer(tiny_autoencoder, found) -> None:
    optimizers = {"autoencoder": {"optimizer": {"type": "AdamW", "config": {"lr": 1e-3}}}}
    assert found(tiny_autoencoder(), {"training.optimizer_configs": optimizers}) == []
    assert found(tiny_autoencoder(adversary=True), {"training.optimizer_configs": optimizers}) == [
        ("training.optimizer_configs", "needs a 'discriminator' optimizer, since there is a discriminator")
    ]


def test_as_many_demos_as_prompts(tiny_diffusion, found) -> None:
    assert found(tiny_diffusion(), {"training.demo.num_demos": 3}) == [("training.demo.num_demos", "is 3, but demo_cond has 1 entries")]
    assert found(tiny_diffusion(), {"training.demo.num_demos": 3, "training.demo.demo_cond_from_batch": True}) == []


# ---- together ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unrelated", [{"model.diffusion.typo": 1}, {"typo": 1}, {"model.diffusion.config.typo": 1}, {"training.typo": 1}])
def test_conflicts_are_found_beside_other_mistakes(tiny_diffusion, found, unrelated: dict[str, Any]) -> None:
    conflict = {"model.diffusion.config.io_channels": 6, "model.pretransform.config.downsampling_ratio": 32}
    assert {path for path, _ in found(tiny_diffusion(), {**conflict, **unrelated})} == {*conflict, *unrelated}


def test_ids_are_checked_although_the_network_is_unknown(tiny_diffusion, found) -> None:
    changes = {"model.diffusion.type": "ditt", "model.diffusion.global_cond_ids": ["secs"]}
    assert [path for path, _ in found(tiny_diffusion(), changes)] == ["model.diffusion.type", "model.diffusion.global_cond_ids[0]"]


def test_no_demos(tiny_diffusion: Callable[..., dict[str, Any]]) -> None:
    from stable_audio_tools.training import create_demo_callback_from_config

    config = tiny_diffusion(demo={"num_demos": 0, "demo_cfg_scales": [1]})
    assert check_model_config(config) == []
    assert create_demo_callback_from_config(config) is None
