"""Families are found by the names that people type."""

from __future__ import annotations

import pytest

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.families import ALL, family


@pytest.mark.parametrize("registry", ALL, ids=lambda registry: registry.symbol)
def test_every_spelling_leads_home(registry) -> None:
    for name in (registry.family, registry.family + "s", registry.family.replace(" ", "-"), registry.symbol, registry.symbol.lower()):
        assert family(name) is registry, name


@pytest.mark.parametrize(
    ("name", "symbol"),
    [
        ("sampler", "SAMPLERS"),  # not the timestep samplers
        ("samplers", "SAMPLERS"),
        ("timesteps", "TIMESTEPS"),
        ("timestep-sampler", "TIMESTEPS"),
        ("model", "MODELS"),
        ("dataset", "DATASETS"),
        ("backbone", "BACKBONES"),
        ("objective", "OBJECTIVES"),
        ("shift", "SHIFTS"),
        ("Conditioner", "CONDITIONERS"),
        ("discriminator", "DISCRIMINATORS"),
    ],
)
def test_short_names(name: str, symbol: str) -> None:
    assert family(name).symbol == symbol


def test_unknown_family() -> None:
    with pytest.raises(ConfigError, match="unknown family 'conditoner'; did you mean 'conditioner'\\?"):
        family("conditoner")
    with pytest.raises(ConfigError, match=r"unknown family 'xyz'; known: model type, encoder, .*training demo"):
        family("xyz")
