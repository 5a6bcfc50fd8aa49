"""What must agree between backbones and what is around them, for U-Nets and unconditional models."""

from __future__ import annotations

from typing import Any

import pytest

from stable_audio_tools.config.check import check_model_config

UNET = {
    "in_channels": 4, "channels": 32, "multipliers": [1, 1], "factors": [2], "num_blocks": [1], "attentions": [0],
    "context_embedding_features": 8, "context_embedding_max_length": 4,
}  # fmt: skip


def found(config: dict[str, Any]) -> list[tuple[str, str]]:
    return [(mistake.path, mistake.message) for mistake in check_model_config(config)]


def uncond(name: str, config: dict[str, Any], **model: Any) -> dict[str, Any]:
    return {"model_type": "diffusion_uncond", "sample_rate": 8000, "model": {"type": name, "config": config, **model}}


def cond(**changes: Any) -> dict[str, Any]:
    """An ``adp_cfg_1d`` with a condition of 8 channels; ``changes`` go into its config."""
    number = {"id": "seconds_total", "type": "number", "config": {"min_val": 0, "max_val": 9}}
    return {
        "model_type": "diffusion_cond",
        "sample_rate": 8000,
        "model": {
            "io_channels": 4,
            "conditioning": {"cond_dim": 8, "configs": [number]},
            "diffusion": {
                "type": "adp_cfg_1d", "cross_attention_cond_ids": ["seconds_total"], "global_cond_ids": ["seconds_total"],
                "config": UNET | {"context_features": 8} | changes,
            },
        },
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "path", "message"),
    [
        ({"in_channels": 2}, "in_channels", "is 2, but model.io_channels is 4"),
        ({"context_embedding_features": 6}, "context_embedding_features",
         "is 6, but condition 'seconds_total' has 8 channels (cond_dim)"),
        ({"context_features": 9}, "context_features", "is 9, but global_cond_ids seconds_total have 8 channels"),
        ({"in_chanels": 2}, "in_chanels", "unknown key; did you mean 'in_channels'?"),
        ({"use_fft": True}, "use_fft", None),
    ],
)  # fmt: skip
def test_conditional_u_nets(changes: dict[str, Any], path: str, message: str | None) -> None:
    assert found(cond()) == []
    ((where, text),) = found(cond(**changes))
    assert where == f"model.diffusion.config.{path}"
    assert text.startswith("unknown key") if message is None else text == message


@pytest.mark.parametrize(
    ("pretransform", "width", "source"),
    [
        ({"type": "patched", "config": {"channels": 2, "patch_size": 8}}, 16, "channels * patch_size"),
        ({"type": "wavelet", "config": {"channels": 2, "levels": 3, "wavelet": "bior2.2"}}, 16, "channels * 2^levels"),
        ({"type": "pqmf", "config": {"channels": 2}}, 32, "channels * num_bands"),
        ({"type": "mel"}, 32, "latent_dim"),
    ],
)
@pytest.mark.parametrize(("name", "key"), [("dit", "in_channels"), ("DAU1d", "io_channels")])
def test_unconditional_models_work_on_what_the_pretransform_gives(
    name: str, key: str, pretransform: dict[str, Any], width: int, source: str
) -> None:
    small = {"depth": 1, "channels": [8], "strides": [2]} if name == "DAU1d" else {}
    assert found(uncond(name, small | {key: width}, pretransform=pretransform)) == []
    message = f"is 3, but the pretransform gives {width} channels (its {source})"
    assert found(uncond(name, small | {key: 3}, pretransform=pretransform)) == [(f"model.config.{key}", message)]


@pytest.mark.parametrize("name", ["dac_pretrained", "audiocraft_pretrained"])
def test_of_a_pretrained_codec_nothing_is_known_before_it_is_loaded(name: str) -> None:
    assert found(uncond("dit", {"in_channels": 3}, pretransform={"type": name}) | {"sample_size": 1001}) == []


@pytest.mark.parametrize(
    ("name", "config", "multiple"),
    [
        ("dit", {"in_channels": 4}, 4),
        ("dit", {"in_channels": 4, "patch_size": 3}, 12),
        ("adp_uncond_1d", {key: UNET[key] for key in list(UNET)[:6]} | {"factors": [2], "patch_size": 2}, 16),
        ("adp_uncond_1d", {key: UNET[key] for key in list(UNET)[:6]} | {"use_stft": True, "stft_num_fft": 31, "stft_hop_length": 8}, 64),
        ("DAU1d", {"io_channels": 4, "depth": 3, "channels": [8, 8, 8], "strides": [2, 2, 2]}, 16),
        ("DAU1d", {"io_channels": 4, "depth": 1, "channels": [8], "strides": []}, 4),
    ],
)
def test_the_step_of_a_backbone_is_known(name: str, config: dict[str, Any], multiple: int) -> None:
    data = uncond(name, config, pretransform={"type": "patched", "config": {"channels": 1, "patch_size": 4}}) | {"sample_size": 1001}
    rounded = round(1001 / multiple) * multiple
    message = f"warning: 1001 is not a multiple of {multiple} samples, the model's step; {rounded} is"
    assert found(data) == [("sample_size", message)]


def test_objectives() -> None:
    message = "unknown diffusion objective 'w'; known: rectified_flow, rf_denoiser, v"
    assert found(uncond("dit", {"in_channels": 4}, diffusion_objective="w")) == [("model.diffusion_objective", message)]
    data = cond()
    data["model"]["diffusion"] |= {
        "type": "dit",
        "config": {"io_channels": 4, "cond_token_dim": 8, "global_cond_dim": 8, "diffusion_objective": "v"},
    }
    assert found(data) == []
    data["model"]["diffusion"]["diffusion_objective"] = "rectified_flow"
    assert found(data) == [
        ("model.diffusion.config.diffusion_objective", "is 'v', but diffusion_objective beside config is 'rectified_flow'")
    ]


def test_unconditional_training_sections_of_both_ages() -> None:
    for training in ({"learning_rate": 1e-4, "demo_steps": 250, "num_demos": 8, "demo_every": 2000}, {"learning_rate": 1e-4, "demo": {}}):
        assert found(uncond("dit", {"in_channels": 4}) | {"training": training, "audio_channels": 4}) == []
    lacking = uncond("dit", {"in_channels": 4}) | {"training": {}, "audio_channels": 4}
    assert found(lacking) == [("training", "needs learning_rate or optimizer_configs")]
