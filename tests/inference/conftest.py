"""Small models with random weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from stable_audio_tools.models import create_model_from_config


@pytest.fixture(scope="session")
def v_model(dit_config: Any, randomise: Any) -> Any:
    """Predicts v on patches of 8 samples; conditions ``prompt`` and ``seconds_total``."""
    torch.manual_seed(0)
    return randomise(create_model_from_config(dit_config())).eval()


@pytest.fixture(scope="session")
def flow_model(dit_config: Any, randomise: Any) -> Any:
    """The same, as a rectified flow."""
    torch.manual_seed(0)
    return randomise(create_model_from_config(dit_config(objective="rectified_flow"))).eval()
