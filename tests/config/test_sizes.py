"""Sizes of zero and less: torch divides by them, or dies of them, or silently builds nothing."""

from __future__ import annotations

from typing import Any

import pytest

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.families import family


@pytest.mark.parametrize(
    ("part", "config", "path", "message"),
    [
        ("encoder oobleck", {"channels": 0}, "channels", "input should be greater than 0, got 0"),
        ("encoder oobleck", {"channels": -4}, "channels", "input should be greater than 0, got -4"),
        ("encoder oobleck", {"c_mults": [1, -2]}, "c_mults[1]", "input should be greater than 0, got -2"),
        ("decoder dac", {"latent_dim": 4, "channels": 8, "rates": [0, 2]}, "rates[0]", "input should be greater than 0, got 0"),
        ("decoder seanet", {"lstm": -1}, "lstm", "input should be greater than or equal to 0, got -1"),
        ("encoder taae", {"sliding_window": [1]}, "sliding_window", "value should have at least 2 items, not 1, got [1]"),
        ("encoder same", {"transformer_depths": [-1]}, "transformer_depths[0]", "input should be greater than or equal to 0, got -1"),
        ("encoder local_attn", {"in_channels": 1, "out_channels": 4, "heads": [0]}, "heads[0]", "input should be greater than 0, got 0"),
        ("bottleneck fsq", {"levels": [0, 5]}, "levels[0]", "input should be greater than 0, got 0"),
        ("bottleneck rvq", {"num_quantizers": 0}, "num_quantizers", "input should be greater than 0, got 0"),
        ("bottleneck tanh", {"scale": 0}, "scale", "input should be greater than 0, got 0"),
        ("backbone dit", {"num_heads": 0}, "num_heads", "input should be greater than 0, got 0"),
        ("backbone dit", {"embed_dim": 0}, "embed_dim", "input should be greater than 0, got 0"),
        ("backbone dit", {"depth": -1}, "depth", "input should be greater than 0, got -1"),
        ("backbone dit", {"patch_size": 0}, "patch_size", "input should be greater than 0, got 0"),
        ("backbone dit", {"num_memory_tokens": -1}, "num_memory_tokens", "input should be greater than or equal to 0, got -1"),
        ("backbone dit", {"sliding_window": [1, 2, 3]}, "sliding_window",
         "value should have at most 2 items, not 3, got [1, 2, 3]"),
        ("backbone dit", {"norm_kwargs": {"eps": -1}}, "norm_kwargs.eps", "input should be greater than or equal to 0, got -1"),
        ("backbone dit", {"ff_kwargs": {"mult": 0}}, "ff_kwargs.mult", "input should be greater than 0, got 0"),
        ("backbone DAU1d", {"strides": [2, 0]}, "strides[1]", "input should be greater than 0, got 0"),
        ("language-model-backbone continuous_transformer", {"embed_dim": 64, "depth": 0}, "depth", "input should be greater than 0, got 0"),
        ("conditioner byte_text", {"output_dim": 4, "max_length": 0}, "max_length", "input should be greater than 0, got 0"),
        ("conditioner number", {"output_dim": 0}, "output_dim", "input should be greater than 0, got 0"),
        ("sampler k-lms", {"order": 0}, "order", "input should be greater than 0, got 0"),
        ("loss mrstft", {"hop_sizes": [0]}, "hop_sizes[0]", "input should be greater than 0, got 0"),
        ("scheduler InverseLR", {"inv_gamma": 0}, "inv_gamma", "input should be greater than 0, got 0"),
    ],
)  # fmt: skip
def test_refused_with_the_place(part: str, config: dict[str, Any], path: str, message: str) -> None:
    name, _, kind = part.partition(" ")
    registry = family(name)
    assert [(m.path, m.message) for m in registry.check(kind, config)] == [(path, message)]
    with pytest.raises(ConfigError, match=r"input should be|value should have"):
        registry.build(kind, config)


@pytest.mark.parametrize(
    ("part", "config"),
    [
        ("decoder seanet", {"lstm": 0, "n_residual_layers": 0}),
        ("bottleneck dac_rvq", {"noise_augment_dim": 0}),
        ("backbone dit", {"sliding_window": [-1, -1], "final_cross_attn_ix": -1, "num_memory_tokens": 0, "cond_token_dim": 0}),
        ("encoder taae", {"transformer_depths": [0, 0, 0, 0]}),
    ],
)  # fmt: skip
def test_none_of_something_and_no_limit_are_fine(part: str, config: dict[str, Any]) -> None:
    name, _, kind = part.partition(" ")
    assert family(name).check(kind, config) == []
