"""Rules between the values of a part: found from the config alone, at the place that has to change."""

from __future__ import annotations

from typing import Any

import pytest

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.families import ALL, family
from stable_audio_tools.registry.rules import RULES
from stable_audio_tools.registry.schema import Schema


@pytest.mark.parametrize(
    ("part", "config", "path", "message"),
    [
        ("backbone dit", {"embed_dim": 32, "num_heads": 3}, "embed_dim", "is 32, but must be a multiple of num_heads, which is 3"),
        ("backbone dit", {"embed_dim": 33}, "embed_dim", "is 33, but must be a multiple of num_heads, which is 8"),
        ("backbone dit", {"ff_kwargs": {"use_conv": True, "conv_kernel_size": 4}}, "ff_kwargs.conv_kernel_size", "must be odd, got 4"),
        ("backbone dit", {"timestep_cond_type": "input_concat"}, "timestep_cond_type", "is 'input_concat', which needs timestep_embed_dim"),
        ("unconditional-backbone dit", {"in_channels": 1, "num_heads": 5}, "num_heads",
         "embed_dim is 768, but must be a multiple of num_heads, which is 5"),
        ("conditioner number", {"min_val": 5, "max_val": 5}, "min_val", "is 5, but must be less than max_val, which is 5"),
        ("conditioner int", {"max_val": -3}, "max_val", "input should be greater than or equal to 0, got -3"),
        ("conditioner int", {"min_val": 9}, "min_val", "input should be 0, got 9"),
        ("conditioner byte_text", {"embed_dim": 10, "num_heads": 4}, "embed_dim", "is 10, but must be a multiple of num_heads, which is 4"),
        ("encoder oobleck", {"c_mults": [1, 2, 4], "strides": [4, 8]}, "strides", "has 2 items, but c_mults has 3: [1, 2, 4]"),
        ("encoder taae", {"c_mults": [1], "strides": []}, "strides", "has 0 items, but c_mults has 1: [1]"),
        ("encoder local_attn", {"in_channels": 1, "out_channels": 1, "depths": [1, 1]}, "depths",
         "has 2 items, but ratios has 4: [2, 2, 2, 2]"),
        ("loss mrstft", {"fft_sizes": [256, 128], "hop_sizes": [64], "win_lengths": [256, 128]}, "hop_sizes",
         "has 1 items, but fft_sizes has 2: [256, 128]"),
        ("loss mrstft", {"fft_sizes": [256], "hop_sizes": [64], "win_lengths": [512]}, "win_lengths",
         "512 is more than 256, which fft_sizes has in its place"),
        ("discriminator encodec", {"n_ffts": [256, 128]}, "n_ffts", "hop_lengths has 3 items, but n_ffts has 2: [256, 128]"),
        ("scheduler InverseLR", {"warmup": 1.0}, "warmup", "input should be less than 1, got 1.0"),
    ],
)  # fmt: skip
def test_broken(part: str, config: dict[str, Any], path: str, message: str) -> None:
    registry, kind = family(part.split()[0]), part.split()[1]
    found = [(m.path, m.message) for m in registry.check(kind, {"output_dim": 4, **config} if "conditioner" in part else config)]
    assert (path, message) in found
    with pytest.raises(ConfigError, match=r"must be|which needs|has .* items|more than|input should"):
        registry.build(kind, config, output_dim=4)


def test_what_does_no_harm_is_left_alone() -> None:
    assert family("backbone").check("dit", {"ff_kwargs": {"conv_kernel_size": 4}}) == []  # no convolution
    assert family("encoder").check("taae", {"c_mults": [1, 2], "strides": [2, 2]}) == []  # two of the four default depths
    assert family("backbone").check("dit", {"timestep_cond_type": "input_concat", "timestep_embed_dim": 8}) == []


def test_a_rule_waits_for_values_of_the_right_type() -> None:
    found = family("backbone").check("dit", {"embed_dim": "32", "num_heads": 3})
    assert [m.path for m in found] == ["embed_dim"]


@pytest.mark.parametrize("registry", ALL, ids=lambda registry: registry.symbol)
def test_every_rule_exists_and_names_keys_of_its_part(registry) -> None:
    for part in registry:
        schema = registry.schema(part.name)
        for name, *keys in part.facts.get("rules", ()):
            assert name in RULES
            for key in [keys[0], keys[2]] if name == "needs" else keys:
                assert holds_key(schema, key), (part.name, key)


def holds_key(schema: Schema, path: str) -> bool:
    key, _, inner = path.partition(".")
    found = next((p for p in schema.parameters if p.name == key), None)
    return found is not None and (not inner or holds_key(Schema(key, found.options or ()), inner))
