"""The recorded numbers of the reference."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file


@pytest.fixture
def golden(shared: Path):
    """``golden("si-sdr")``: the case (config, sample_rate, value), fakes and reals."""
    folder = shared / "goldens" / "losses"

    def case(name: str):
        (found,) = (item for item in json.loads((folder / "reference.json").read_text())["losses"] if item["name"] == name)
        signals = load_file(folder / "tensors.safetensors")
        return found, signals["fakes"], signals["reals"]

    return case
