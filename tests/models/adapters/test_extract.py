"""An adapter from the difference of two models."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

from stable_audio_tools.errors import CheckpointError
from stable_audio_tools.models.adapters import choose_layers, extract_adapter, stack_of
from stable_audio_tools.models.factory import create_model_from_config


def test_a_low_rank_difference_is_found_exactly(dit_config: Callable[..., Any]) -> None:
    model = create_model_from_config(dit_config())
    tuned = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in choose_layers(tuned, "lora", ["self_attn", "preprocess_conv"]).values():
            weight: Any = layer.weight
            flat = weight.flatten(1)
            change = torch.randn(len(flat), 2, generator=generator) @ torch.randn(2, flat.shape[1], generator=generator)
            weight += 0.1 * change.view_as(weight)
    found = extract_adapter(model, tuned.state_dict(), rank=2)
    assert found.captured == pytest.approx(1, abs=1e-5) and found.left_out == []
    assert len(found.adapter.tensors) == 5
    base = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    stack_of(model).load(found.adapter)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, tuned.state_dict()[name], atol=1e-5, rtol=1e-4)
    stack_of(model).set_strength(0)
    assert all(torch.equal(tensor, base[name]) for name, tensor in model.state_dict().items())


def test_what_is_lost_is_told(dit_config: Callable[..., Any]) -> None:
    model = create_model_from_config(dit_config())
    tuned = copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "self_attn.to_qkv" in name or "ff.ff.2.bias" in name:
                parameter += 0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    shares = [extract_adapter(model, tuned.state_dict(), rank=rank).captured for rank in (1, 4, 32)]
    assert shares == sorted(shares) and shares[0] < 0.5 < shares[2] < 1
    assert all("bias" in name for name in extract_adapter(model, tuned.state_dict()).left_out)


def test_what_has_no_difference_is_refused(dit_config: Callable[..., Any]) -> None:
    model = create_model_from_config(dit_config())
    with pytest.raises(CheckpointError, match="the same weights in every chosen layer"):
        extract_adapter(model, model.state_dict())
    with pytest.raises(CheckpointError, match=r"not of the same model: .* is missing in the second"):
        extract_adapter(model, create_model_from_config(dit_config(embed_dim=16)).state_dict())
