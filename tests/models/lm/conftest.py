"""Small language models: the config and the model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

from stable_audio_tools import create_model_from_config
from stable_audio_tools.models.lm import AudioLanguageModelWrapper

PATTERNS = ("parallel", "delay", "unroll", "musiclm")
METADATA = [{"prompt": "a kick", "seconds": 1.0}, {"prompt": "wind and rain", "seconds": 7.0}]


@pytest.fixture(scope="session")
def lm_config() -> Callable[..., dict[str, Any]]:
    """``lm_config(pattern="delay", conditions="both", **lm)``: 4 codebooks of 16 tokens, 8 samples each, width 32."""

    def config(pattern: str = "delay", conditions: str = "both", *, bottleneck: dict[str, Any] | None = None, **lm: Any) -> dict[str, Any]:
        sizes: dict[str, Any] = {"channels": 4, "c_mults": [1, 2], "strides": [2, 4], "latent_dim": 8}
        rvq = {"type": "dac_rvq", "config": {"input_dim": 8, "n_codebooks": 4, "codebook_dim": 4, "codebook_size": 16}}
        block: dict[str, Any] = {
            "type": "continuous_transformer",
            "codebook_pattern": pattern,
            "config": {"embed_dim": 32, "depth": 2, "dim_heads": 16, **lm},
        }
        if conditions in ("cross", "both"):
            block["cross_attention_cond_ids"] = ["prompt"]
            block["config"] |= {"cross_attn_cond_dim": 16}
        if conditions in ("prepend", "both"):
            block["prepend_cond_ids"] = ["seconds"] if conditions == "both" else ["seconds", "prompt"]
            block["config"] |= {"prepend_cond_dim": 16}
        model: dict[str, Any] = {
            "pretransform": {
                "type": "autoencoder",
                "config": {
                    "encoder": {"type": "oobleck", "config": {"in_channels": 1, **sizes}},
                    "decoder": {"type": "oobleck", "config": {"out_channels": 1, **sizes}},
                    "bottleneck": bottleneck or rvq,
                    "latent_dim": 8,
                    "downsampling_ratio": 8,
                    "io_channels": 1,
                },
            },
            "lm": block,
        }
        if conditions != "none":
            text = {"embed_dim": 16, "depth": 1, "num_heads": 2, "max_length": 16}
            model["conditioning"] = {
                "cond_dim": 16,
                "configs": [
                    {"id": "prompt", "type": "byte_text", "config": text},
                    {"id": "seconds", "type": "number", "config": {"min_val": 0, "max_val": 10}},
                ],
            }
        return {"model_type": "lm", "sample_rate": 8000, "sample_size": 128, "audio_channels": 1, "model": model}

    return config


@pytest.fixture
def make_lm(lm_config: Any, randomise: Any) -> Callable[..., AudioLanguageModelWrapper]:
    """``make_lm(...)``: the model of `lm_config`, with random weights wherever training would start from zeros."""

    def make(*arguments: Any, **options: Any) -> AudioLanguageModelWrapper:
        torch.manual_seed(0)
        model = create_model_from_config(lm_config(*arguments, **options)).eval()
        randomise(model.lm, std=0.3)
        assert isinstance(model, AudioLanguageModelWrapper)
        return model

    return make


@pytest.fixture
def metadata() -> list[dict[str, Any]]:
    return copy.deepcopy(METADATA)
