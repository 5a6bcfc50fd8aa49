"""The recorded numbers of the reference, and small signals."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from stable_audio_tools.families import DISCRIMINATORS


@pytest.fixture
def audio() -> tuple[Tensor, Tensor]:
    """Two different noises (2, 1, 512)."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 1, 512, generator=generator), torch.randn(2, 1, 512, generator=generator)


def fill_rule(folder: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("fill", folder / "fill.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def assert_golden(shared: Path):
    """``assert_golden("dac")``: weights are named and shaped as in the reference, and all three losses have its values."""
    folder = shared / "goldens" / "losses"

    def check(name: str) -> None:
        (case,) = (item for item in json.loads((folder / "reference.json").read_text())["discriminators"] if item["name"] == name)
        model = DISCRIMINATORS.build(name, case["config"], in_channels=case["channels"], sample_rate=case["sample_rate"])
        assert {key: list(value.shape) for key, value in model.state_dict().items()} == case["state_dict"]
        fill = fill_rule(folder).fill
        model.load_state_dict({key: fill(key, value) for key, value in model.state_dict().items()})
        signals = load_file(folder / "tensors.safetensors")
        with torch.no_grad():
            losses = model.loss(*(signals[key][:, : case["channels"]] for key in ("reals", "fakes")))
        assert float(losses.discriminator) == pytest.approx(case["discriminator_loss"], rel=1e-5)
        assert float(losses.adversarial) == pytest.approx(case["adversarial_loss"], rel=1e-4)
        assert float(losses.feature_matching) == pytest.approx(case["feature_matching_distance"], rel=1e-5)

    return check
