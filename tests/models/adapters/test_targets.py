"""Which layers patterns choose, and what is said about those that match none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.models.adapters import choose_layers
from stable_audio_tools.models.adapters.targets import matches
from stable_audio_tools.models.factory import create_model_from_config


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("to_qkv", "a.self_attn.to_qkv", True),
        ("TO_QKV", "a.self_attn.to_qkv", True),
        (".transformer.", "model.transformer.x", True),
        (".transformer.", "model.continuous_transformer.x", False),
        ("layers.[0-5].", "layers.5.ff", True),
        ("layers.[0-5].", "layers.6.ff", False),
        ("layers[0-5]", "layers.3.ff", True),
        ("layers[1-2]", "layers.12.ff", False),
        ("layers[1-2]", "layers.21.ff", False),
        ("layers[8-11].*to_[0-1]", "layers.10.attn.to_1", True),
        ("layers[8-11].*to_[0-1]", "layers.10.attn.to_2", False),
        ("ff.*.proj", "ff.0.proj", True),
        ("a+b", "aab", False),
    ],
)
def test_patterns(pattern: str, name: str, expected: bool) -> None:
    assert matches(pattern, name) is expected


def test_choice(dit_config: Callable[..., Any]) -> None:
    model = create_model_from_config(dit_config())
    everything = choose_layers(model, "lora")
    assert all(name.startswith("model.") for name in everything) and "model.model.preprocess_conv" in everything
    linear = choose_layers(model, "oft")
    assert set(everything) - set(linear) == {"model.model.preprocess_conv", "model.model.postprocess_conv"}
    assert list(choose_layers(model, "lora", ["self_attn"], ["layers.0."])) == [
        "model.model.transformer.layers.1.self_attn.to_qkv",
        "model.model.transformer.layers.1.self_attn.to_out",
    ]
    assert all("conditioner" in name for name in choose_layers(model, "lora", ["conditioner"]))


def test_what_matches_nothing_is_refused(dit_config: Callable[..., Any]) -> None:
    model = create_model_from_config(dit_config())
    with pytest.raises(ConfigError, match=r"no layer matches 'to_qvk'; layers are named like model\.model\."):
        choose_layers(model, "lora", ["to_qkv", "to_qvk"])
    with pytest.raises(ConfigError, match=r"'pre_norm'; what it matches is no layer that 'lora' adapts \(.*\), such as .*pre_norm \("):
        choose_layers(model, "lora", ["pre_norm"])
    with pytest.raises(ConfigError, match="no layer matches 'preprocess_conv'"):
        choose_layers(model, "oft", ["preprocess_conv"])
    with pytest.raises(ConfigError, match="no layer is left to adapt"):
        choose_layers(model, "lora", ["to_qkv"], ["attn"])
    with pytest.raises(ConfigError, match=r"no layer matches 'conditioners\.prompt\.transformer'"):
        choose_layers(model, "lora", ["conditioners.prompt.transformer"])  # these are read, not called
