"""Contradictions that only training trips over: refused where it would stop, a warning where something has no effect."""

from __future__ import annotations

from typing import Any

import pytest

from stable_audio_tools.config.check import check_model_config
from stable_audio_tools.families import BOTTLENECKS

DIT = "model.diffusion.config"
DEMO = "training.demo"


@pytest.fixture
def lines(edited):
    """``lines(config, changes)``: (path, message) of every mistake."""
    return lambda config, changes: [(m.path, m.message) for m in check_model_config(edited(config, changes))]


@pytest.mark.parametrize(
    ("changes", "path", "message"),
    [
        ({"audio_channels": 2}, "audio_channels",
         "is 2, but the model works on audio of 1 channels (model.pretransform.config.io_channels)"),
        ({"sample_size": 3}, "sample_size", "is 3 samples, which is less than one step of the model, 16"),
        ({f"{DIT}.input_concat_dim": 16}, f"{DIT}.input_concat_dim", "is 16, but input_concat_ids is empty"),
        ({"model.diffusion.input_concat_ids": ["seconds_total"]}, "model.diffusion.input_concat_ids",
         "needs config.input_concat_dim, which is 0"),
        ({"model.diffusion.input_concat_ids": ["seconds_total"], f"{DIT}.input_concat_dim": 8}, f"{DIT}.input_concat_dim",
         "is 8, but seconds_total have 1 channels to concatenate (one for each step of an embedding)"),
        ({"model.pretransform.scale": 0}, "model.pretransform.scale", "input should be greater than 0, got 0"),
        ({f"{DEMO}.demo_cond.0": {"promt": "x", "seconds_start": 0, "seconds_total": 1}}, f"{DEMO}.demo_cond[0]",
         "has no 'prompt', which the model is conditioned on; is 'promt' a typing error?"),
        ({f"{DEMO}.demo_cond.0": {"prompt": "x"}}, f"{DEMO}.demo_cond[0]",
         "has no 'seconds_start', 'seconds_total', which the model is conditioned on; it has: prompt"),
        ({f"{DEMO}.demo_cond.0.seconds_start": "a"}, f"{DEMO}.demo_cond[0].seconds_start", "a 'number' conditioner reads numbers, got 'a'"),
        ({f"{DEMO}.demo_cfg_scales": []}, f"{DEMO}.demo_cfg_scales", "warning: is empty: there will be no demos"),
    ],
)  # fmt: skip
def test_diffusion(tiny_diffusion, lines, changes: dict[str, Any], path: str, message: str) -> None:
    assert lines(tiny_diffusion(), {}) == []
    assert lines(tiny_diffusion(), changes) == [(path, message)]


def test_a_sequence_is_no_global_condition(tiny_diffusion, lines) -> None:
    text = {"id": "prompt", "type": "byte_text", "config": {"embed_dim": 8, "num_heads": 2}}
    changes = {"model.conditioning.configs.0": text, "model.diffusion.global_cond_ids.0": "prompt"}
    message = "'prompt' is a sequence (a 'byte_text' conditioner), but a global condition is one vector"
    assert ("model.diffusion.global_cond_ids[0]", message) in lines(tiny_diffusion(), changes)


def test_audio_channels_that_are_not_given_count_as_two_in_training_only(tiny_diffusion, lines, delete) -> None:
    message = "is not given, so 2, but the model works on audio of 1 channels (model.pretransform.config.io_channels)"
    assert lines(tiny_diffusion(), {"audio_channels": delete}) == [("audio_channels", message)]
    assert lines(tiny_diffusion(), {"audio_channels": delete, "training": delete}) == []


def test_without_training_wrong_channels_are_a_warning(tiny_diffusion, lines, delete) -> None:
    ((path, message),) = lines(tiny_diffusion(), {"audio_channels": 2, "training": delete})
    assert path == "audio_channels" and message.startswith("warning: is 2, but the model works on audio of 1 channels")


def test_without_a_pretransform_audio_is_what_is_denoised(tiny_diffusion, lines, delete) -> None:
    message = "is 1, but the model works on audio of 4 channels (model.io_channels, without a pretransform)"
    assert lines(tiny_diffusion(), {"model.pretransform": delete}) == [("audio_channels", message)]
    assert lines(tiny_diffusion(), {"model.pretransform": delete, "training.pre_encoded": True}) == []


def test_other_keys_of_demos_are_left_alone(tiny_diffusion, lines) -> None:
    """Published configs have them."""
    assert lines(tiny_diffusion(), {f"{DEMO}.demo_cond.0.cfg": 6.0, f"{DEMO}.demo_cond.0.seconds_total": "12"}) == []


LOSSES = {"spectral": {"config": {"fft_sizes": [512], "hop_sizes": [64], "win_lengths": [512]}, "weights": {"mrstft": 1.0}}}
NO_ADVERSARY = {"learning_rate": 1e-4, "loss_configs": LOSSES}
ADAM = {"optimizer": {"type": "Adam", "config": {"lr": 1e-3}}}


@pytest.mark.parametrize(
    ("changes", "path", "message"),
    [
        ({"audio_channels": 2}, "audio_channels", "is 2, but the model works on audio of 1 channels (model.io_channels)"),
        ({"sample_size": 256}, "sample_size", "is 256, but the spectral loss needs more than half of its largest fft_sizes, 512"),
        ({"training.warmup_steps": 10}, "training.warmup_steps", "warning: has no effect: there is no discriminator to wait for"),
        ({"training.optimizer_configs": {"autoencoder": ADAM, "discriminator": ADAM}}, "training.optimizer_configs.discriminator",
         "warning: has no effect: there is no discriminator"),
        ({"training.loss_configs.time": {"config": {"x": 1}, "weights": {"l1": 0.1}}}, "training.loss_configs.time.config",
         "warning: has no effect"),
        ({"training.loss_configs.bottleneck": {"weights": {"mmd": 1.0}}}, "training.loss_configs.bottleneck.weights.mmd",
         "warning: has no effect: bottleneck 'vae' has no such loss; it has: kl"),
    ],
)  # fmt: skip
def test_autoencoder(tiny_autoencoder, edited, lines, changes: dict[str, Any], path: str, message: str) -> None:
    config = edited(tiny_autoencoder(), {"training": NO_ADVERSARY, "sample_size": 1024})
    assert lines(config, {}) == []
    assert lines(config, changes) == [(path, message)]


@pytest.mark.parametrize("part", BOTTLENECKS, ids=lambda part: part.name)
def test_bottlenecks_state_the_losses_that_they_have(part) -> None:
    names = {key.rpartition("/")[2].removesuffix("_loss") for key in BOTTLENECKS.load(part.name).loss_weights}
    assert set(part.facts.get("losses", ())) == names


def test_oversampled_patches(tiny_diffusion, lines) -> None:
    patched = {"type": "patched", "config": {"channels": 1, "patch_size": 4, "oversampling": 1}}
    assert lines(tiny_diffusion(), {"model.pretransform": patched}) == []
    patched["config"]["oversampling"] = 3
    assert lines(tiny_diffusion(), {"model.pretransform": patched}) == [
        ("model.pretransform.config.patch_size", "is 4, but must be a multiple of oversampling, which is 3")
    ]
