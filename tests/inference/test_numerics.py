"""Settings under which results are compared, put back afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from stable_audio_tools.inference.numerics import reference_numerics, seeded


def settings() -> list[bool]:
    matmul: Any = torch.backends.cuda.matmul
    cudnn: Any = torch.backends.cudnn
    return [matmul.allow_tf32, cudnn.allow_tf32, matmul.allow_fp16_reduced_precision_reduction, cudnn.benchmark]


@pytest.fixture
def other_settings() -> Iterator[list[bool]]:
    """Settings unlike those that generation uses; undone by the code under test, or else here."""
    matmul: Any = torch.backends.cuda.matmul
    cudnn: Any = torch.backends.cudnn
    before = settings()
    matmul.allow_tf32 = cudnn.allow_tf32 = matmul.allow_fp16_reduced_precision_reduction = cudnn.benchmark = True
    yield settings()
    matmul.allow_tf32, cudnn.allow_tf32, matmul.allow_fp16_reduced_precision_reduction, cudnn.benchmark = before


@pytest.mark.parametrize("fails", [False, True])
def test_numerics_are_restored(other_settings: list[bool], fails: bool) -> None:
    assert other_settings == [True] * 4
    try:
        with reference_numerics():
            assert settings() == [False] * 4
            if fails:
                raise ValueError
    except ValueError:
        assert fails
    assert settings() == other_settings


def test_streams_are_seeded_and_put_back() -> None:
    torch.manual_seed(3)
    first, second = torch.rand(2), torch.rand(2)
    torch.manual_seed(3)
    assert torch.equal(torch.rand(2), first)
    with seeded(3):
        assert torch.equal(torch.rand(2), first)
    assert torch.equal(torch.rand(2), second)
