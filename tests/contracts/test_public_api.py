"""Import paths that other people's scripts use. Taking one away is a change of the interface."""

from __future__ import annotations

import importlib
import inspect

import pytest

import stable_audio_tools

PROMISED = {
    "stable_audio_tools": ["create_model_from_config", "create_model_from_config_path"],
    "stable_audio_tools.models": ["create_model_from_config", "create_model_from_config_path"],
    "stable_audio_tools.models.factory": [
        "create_model_from_config", "create_model_from_config_path", "create_pretransform_from_config", "create_bottleneck_from_config",
    ],
    "stable_audio_tools.models.utils": ["load_ckpt_state_dict", "copy_state_dict", "remove_weight_norm_from_model"],
    "stable_audio_tools.models.autoencoders": ["AudioAutoencoder", "OobleckEncoder", "OobleckDecoder"],
    "stable_audio_tools.models.bottleneck": ["Bottleneck", "VAEBottleneck", "TanhBottleneck", "L2Bottleneck", "vae_sample"],
    "stable_audio_tools.models.pretransforms": ["Pretransform", "AutoencoderPretransform", "PatchedPretransform"],
    "stable_audio_tools.models.conditioners": [
        "Conditioner", "MultiConditioner", "NumberConditioner", "IntConditioner", "T5Conditioner",
    ],
    "stable_audio_tools.models.diffusion": ["ConditionedDiffusionModelWrapper", "DiTWrapper"],
    "stable_audio_tools.models.dit": ["DiffusionTransformer"],
    "stable_audio_tools.models.transformer": [
        "Attention", "ContinuousTransformer", "TransformerBlock", "FeedForward", "LayerNorm", "RotaryEmbedding",
        "AbsolutePositionalEmbedding", "ScaledSinusoidalEmbedding", "ConformerModule",
    ],
    "stable_audio_tools.inference.generation": ["generate_diffusion_cond"],
    "stable_audio_tools.inference.utils": ["prepare_audio", "set_audio_channels"],
    "stable_audio_tools.data.dataset": [
        "create_dataloader_from_config", "SampleDataset", "PreEncodedDataset", "collation_fn", "fast_scandir",
    ],
    "stable_audio_tools.training": ["create_training_wrapper_from_config", "create_demo_callback_from_config"],
    "stable_audio_tools.training.diffusion": ["DiffusionCondTrainingWrapper"],
    "stable_audio_tools.training.autoencoders": ["AutoencoderTrainingWrapper"],
}  # fmt: skip
PAIRS = [(module, name) for module, names in PROMISED.items() for name in names]


@pytest.mark.parametrize(("module", "name"), PAIRS)
def test_promised_names_are_where_scripts_look_for_them(module: str, name: str) -> None:
    thing = getattr(importlib.import_module(module), name)
    assert thing.__doc__


@pytest.mark.parametrize("module", PROMISED)
def test_what_a_module_offers_is_there(module: str) -> None:
    found = importlib.import_module(module)
    offered = getattr(found, "__all__", [])
    assert [name for name in offered if not hasattr(found, name)] == []
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = found.no_such_thing


@pytest.mark.parametrize(
    ("path", "parameters"),
    [
        (
            "inference.generation.generate_diffusion_cond",
            "model steps cfg_scale conditioning conditioning_tensors negative_conditioning negative_conditioning_tensors batch_size "
            "sample_size sample_rate seed device init_audio init_noise_level return_latents",
        ),
        ("models.factory.create_model_from_config", "model_config"),
        ("models.factory.create_model_from_config_path", "model_config_path"),
        ("models.utils.load_ckpt_state_dict", "ckpt_path"),
        ("models.utils.copy_state_dict", "model state_dict"),
        ("inference.utils.prepare_audio", "audio in_sr target_sr target_length target_channels device"),
        ("data.dataset.create_dataloader_from_config", "dataset_config batch_size sample_size sample_rate audio_channels num_workers"),
        ("training.create_training_wrapper_from_config", "model_config model"),
        ("training.create_demo_callback_from_config", "model_config"),
    ],
)  # fmt: skip
def test_scripts_may_name_these_arguments(path: str, parameters: str) -> None:
    module, _, name = f"stable_audio_tools.{path}".rpartition(".")
    signature = inspect.signature(getattr(importlib.import_module(module), name))
    assert list(signature.parameters)[: len(parameters.split())] == parameters.split()


def test_the_package_has_a_version_and_types() -> None:
    assert stable_audio_tools.__version__.count(".") == 2
    assert stable_audio_tools.__file__ is not None
    assert (importlib.resources.files("stable_audio_tools") / "py.typed").is_file()
