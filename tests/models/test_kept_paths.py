"""Import paths of the other diffusion models that scripts use, and what their saved weights are taken for."""

import importlib

import pytest
import torch

from stable_audio_tools.checkpoint import kind_of
from stable_audio_tools.models import create_model_from_config

PATHS = {
    "models.blocks": "FourierFeatures Downsample1d Downsample1d_2 ResConvBlock SelfAttention1d SkipBlock Upsample1d Upsample1d_2 "
    "expand_to_planes",
    "models.adp": "UNet1d UNetCFG1d NumberEmbedder",
    "models.diffusion": "ConditionedDiffusionModelWrapper DiffusionModelWrapper DiTWrapper DiTUncondWrapper DiffusionTransformer "
    "UNet1DCondWrapper UNet1DUncondWrapper UNetCFG1DWrapper DiffusionAttnUnet1D DAU1DCondWrapper create_diffusion_uncond_from_config "
    "create_diffusion_cond_from_config",
    "models.autoencoders": "AudioAutoencoder DiffusionAutoencoder create_diffAE_from_config",
    "models.pretransforms": "Pretransform AutoencoderPretransform PatchedPretransform WaveletPretransform PQMFPretransform "
    "PretrainedDACPretransform AudiocraftCompressionPretransform",
    "models.factory": "create_diffusion_uncond_from_config create_diffusion_cond_from_config create_diffAE_from_config "
    "create_pretransform_from_config",
    "models.arc": "ConvDiscriminator ConvNeXtDiscriminator",
    "inference.generation": "generate_diffusion_uncond",
    "training.arc": "ARCTrainingWrapper",
    "training.diffusion": "DiffusionCondTrainingWrapper DiffusionCondInpaintTrainingWrapper DiffusionUncondTrainingWrapper "
    "DiffusionAutoencoderTrainingWrapper DiffusionCondDemoCallback DiffusionCondInpaintDemoCallback DiffusionUncondDemoCallback",
}


@pytest.mark.parametrize(("module", "name"), [(module, name) for module, names in PATHS.items() for name in names.split()])
def test_kept_paths(module: str, name: str) -> None:
    assert callable(getattr(importlib.import_module(f"stable_audio_tools.{module}"), name))


@pytest.mark.parametrize(
    ("model_type", "model"),
    [
        ("diffusion_uncond", {"type": "DAU1d", "config": {"depth": 2, "channels": [32, 32], "strides": [2]}}),
        ("diffusion_uncond", {"type": "dit", "config": {"in_channels": 2, "embed_dim": 16, "depth": 1, "num_heads": 2}}),
        (
            "diffusion_autoencoder",
            {
                "encoder": {
                    "type": "oobleck", "config": {"in_channels": 1, "channels": 4, "c_mults": [1], "strides": [2], "latent_dim": 4},
                },
                "diffusion": {"type": "DAU1d", "config": {"io_channels": 1, "cond_dim": 4, "depth": 1, "channels": [32], "strides": []}},
                "latent_dim": 4, "downsampling_ratio": 2, "io_channels": 1,
            },
        ),
    ],
)  # fmt: skip
def test_saved_weights_are_taken_for_a_diffusion_model(model_type: str, model: dict) -> None:
    with torch.device("meta"):
        built = create_model_from_config({"model_type": model_type, "sample_rate": 8000, "model": model})
    state_dict = built.state_dict()
    assert kind_of(state_dict) == "diffusion"
    prefix = {"diffusion_uncond": "diffusion.", "diffusion_autoencoder": "diffae."}[model_type]
    assert kind_of({prefix + key: value for key, value in state_dict.items()}) == "wrapped"
