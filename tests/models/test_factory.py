"""From configs to models, by the names that users' scripts import."""

import copy
import importlib
import json
import logging
from importlib.resources import files

import pytest
import torch

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.models import create_model_from_config, create_model_from_config_path
from stable_audio_tools.models.autoencoders import AudioAutoencoder
from stable_audio_tools.models.bottlenecks import TanhBottleneck, VAEBottleneck
from stable_audio_tools.models.conditioners import MultiConditioner
from stable_audio_tools.models.diffusion import ConditionedDiffusionModelWrapper
from stable_audio_tools.models.factory import (
    create_autoencoder_from_config,
    create_bottleneck_from_config,
    create_diffusion_cond_from_config,
    create_multi_conditioner_from_conditioning_config,
    create_pretransform_from_config,
)
from stable_audio_tools.models.layers.parameters import count_parameters, dtype_of
from stable_audio_tools.models.pretransforms import AutoencoderPretransform

PUBLIC = {
    "stable_audio_tools": ["create_model_from_config", "create_model_from_config_path"],
    "stable_audio_tools.models": ["create_model_from_config", "create_model_from_config_path"],
    "stable_audio_tools.models.factory": [
        "create_model_from_config", "create_model_from_config_path", "create_autoencoder_from_config", "create_pretransform_from_config",
        "create_bottleneck_from_config", "create_multi_conditioner_from_conditioning_config",
    ],
    "stable_audio_tools.models.utils": ["load_ckpt_state_dict", "copy_state_dict", "remove_weight_norm_from_model"],
    "stable_audio_tools.models.autoencoders": ["AudioAutoencoder", "OobleckEncoder", "OobleckDecoder"],
    "stable_audio_tools.models.bottleneck": ["VAEBottleneck", "TanhBottleneck", "L2Bottleneck", "vae_sample"],
    "stable_audio_tools.models.conditioners": ["MultiConditioner", "T5Conditioner", "NumberConditioner", "IntConditioner"],
    "stable_audio_tools.models.diffusion": ["ConditionedDiffusionModelWrapper", "DiTWrapper"],
    "stable_audio_tools.models.dit": ["DiffusionTransformer"],
    "stable_audio_tools.models.transformer": ["ContinuousTransformer", "TransformerBlock", "Attention", "FeedForward"],
    "stable_audio_tools.models.pretransforms": ["Pretransform", "AutoencoderPretransform", "PatchedPretransform"],
    "stable_audio_tools.inference.generation": ["generate_diffusion_cond"],
    "stable_audio_tools.inference.utils": ["prepare_audio", "set_audio_channels"],
}  # fmt: skip


@pytest.mark.parametrize("module", PUBLIC)
def test_import_paths(module):
    imported = importlib.import_module(module)
    assert [name for name in PUBLIC[module] if not callable(getattr(imported, name, None))] == []


def test_unknown_names_of_lazy_packages():
    with pytest.raises(AttributeError, match=r"module 'stable_audio_tools.models' has no attribute 'nothing'"):
        importlib.import_module("stable_audio_tools.models").nothing  # noqa: B018


def same(first, second):
    left, right = first.state_dict(), second.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("kind", ["oobleck_config", "dit_config"])
def test_building_reads_a_config_and_never_writes_it(kind, request):
    config = request.getfixturevalue(kind)()
    before = copy.deepcopy(config)
    models = []
    for _ in range(2):
        torch.manual_seed(0)
        models.append(create_model_from_config(config))
    assert config == before and same(*models)


def test_from_a_file_equals_from_a_dict(oobleck_config, tmp_path):
    path = tmp_path / "model.json"
    path.write_text(json.dumps(oobleck_config()))
    torch.manual_seed(0)
    from_dict = create_model_from_config(oobleck_config())
    for given in (path, str(path)):
        torch.manual_seed(0)
        assert same(create_model_from_config_path(given), from_dict)


def test_mistakes_in_a_file_have_a_position(oobleck_config, tmp_path):
    config = oobleck_config()
    config["model"]["latent_dim"] = 5
    path = tmp_path / "model.json"
    path.write_text(json.dumps(config, indent=1))
    with pytest.raises(ConfigError, match=r"model.json:\d+:\d+  model.encoder.config.latent_dim: is 8, but must be 10"):
        create_model_from_config_path(path)
    with pytest.raises(ConfigError, match=r"missing.json: no such file"):
        create_model_from_config_path(tmp_path / "missing.json")


def test_an_autoencoder_needs_no_model_type(oobleck_config):
    config = oobleck_config()
    del config["model_type"]
    assert isinstance(create_autoencoder_from_config(config), AudioAutoencoder)


def test_a_diffusion_model(dit_config, oobleck_config):
    model = create_diffusion_cond_from_config(dit_config())
    assert isinstance(model, ConditionedDiffusionModelWrapper) and isinstance(model.conditioner, MultiConditioner)
    with pytest.raises(ConfigError, match="model_type: is 'autoencoder', but must be 'diffusion_cond' here"):
        create_diffusion_cond_from_config(oobleck_config())


def test_a_pretransform(oobleck_config):
    block = {"type": "autoencoder", "iterate_batch": True, "config": oobleck_config()["model"], "_note": "ignored"}
    before = copy.deepcopy(block)
    pretransform = create_pretransform_from_config(block, 16000)
    assert isinstance(pretransform, AutoencoderPretransform) and pretransform.sample_rate == 16000 and pretransform.iterate_batch
    assert block == before


def test_a_bottleneck():
    assert isinstance(create_bottleneck_from_config({"type": "vae"}), VAEBottleneck)
    tanh = create_bottleneck_from_config({"type": "tanh", "config": {"scale": 2.0}})
    assert isinstance(tanh, TanhBottleneck) and tanh.scale == 2.0
    with pytest.raises(ConfigError, match="bottleneck: type: unknown bottleneck 'vea'; did you mean 'vae'"):
        create_bottleneck_from_config({"type": "vea"})
    with pytest.raises(ConfigError, match=r"bottleneck: config.scal: unknown key; did you mean 'scale'"):
        create_bottleneck_from_config({"type": "tanh", "config": {"scal": 2.0}})
    with pytest.raises(ConfigError, match=r"bottleneck: type: .*required"):
        create_bottleneck_from_config({"config": {}})


def test_unknown_keys_of_a_block_are_named_and_left_out(caplog):
    with caplog.at_level(logging.WARNING, logger="stable_audio_tools"):
        block = {"type": "vae", "some_old_key": 1}
        assert isinstance(create_bottleneck_from_config(block), VAEBottleneck)
    assert "bottleneck: some_old_key: unknown key" in caplog.text and "(ignored)" in caplog.text
    assert block == {"type": "vae", "some_old_key": 1}


def test_requires_grad_freezes_parts(oobleck_config):
    config = oobleck_config()
    config["model"]["encoder"]["requires_grad"] = False
    model = create_model_from_config(config)
    assert not any(p.requires_grad for p in model.encoder.parameters()) and all(p.requires_grad for p in model.decoder.parameters())


@pytest.mark.parametrize("folder", ["autoencoders", "txt2audio"])
def test_every_shipped_config_builds(folder):
    paths = sorted((files("stable_audio_tools") / "configs" / "model_configs" / folder).iterdir(), key=str)
    assert paths
    for path in paths:
        if json.loads(path.read_text())["model_type"] == "musicgen":
            continue  # its weights are downloaded; see tests/models/lm/test_musicgen.py
        with torch.device("meta"):
            model = create_model_from_config_path(str(path))
        assert count_parameters(model) > 1e5


def test_published_conditioning_sections_build(shared):
    path = shared / "corpus" / "model_configs" / "Stability-AI__stable-audio-tools__stable_open_model_files-model_config.json"
    section = json.loads(path.read_text())["model"]["conditioning"]
    multi = create_multi_conditioner_from_conditioning_config(section)
    assert list(multi.conditioners) == [block["id"] for block in section["configs"]]


# ---- facts about parameters ----------------------------------------------------------------------------------------------------------


def test_data_type_of_a_module():
    assert dtype_of(torch.nn.Linear(1, 1).half()) == torch.float16
    assert dtype_of(torch.nn.Identity()) == torch.float32
    assert dtype_of(torch.nn.Identity(), torch.bfloat16) == torch.bfloat16
    with_buffers = torch.nn.Module()
    with_buffers.register_buffer("count", torch.zeros(1, dtype=torch.int64))
    with_buffers.register_buffer("window", torch.ones(3, dtype=torch.float64))
    assert dtype_of(with_buffers) == torch.float64


def test_counting_parameters():
    layer = torch.nn.Linear(3, 4)
    model = torch.nn.Sequential(layer, torch.nn.Linear(4, 2).requires_grad_(False), layer)
    assert count_parameters(model) == 16 + 10
    assert count_parameters(model, trainable_only=True) == 16
