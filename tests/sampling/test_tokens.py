"""Tokens are drawn with the probabilities that they should have."""

from __future__ import annotations

import pytest
import torch

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.sampling.tokens import keep_top_k, sample_tokens

PROBABILITIES = torch.tensor([0.05, 0.4, 0.25, 0.2, 0.1])
COUNT = 20_000


def shares(**options: float) -> torch.Tensor:
    """How often each of five tokens is drawn."""
    generator = torch.Generator().manual_seed(0)
    tokens = sample_tokens(PROBABILITIES.log().expand(COUNT, -1), generator=generator, **options)  # type: ignore[arg-type]
    return torch.bincount(tokens, minlength=5) / COUNT


def is_close(drawn: torch.Tensor, wanted: list[float]) -> bool:
    expected = torch.tensor(wanted)
    return bool(((drawn - expected).abs() < 0.015).all()) and not drawn[expected == 0].any()  # four standard deviations


def test_without_limits_tokens_come_as_often_as_they_are_likely() -> None:
    assert is_close(shares(top_k=0), PROBABILITIES.tolist())
    assert is_close(shares(top_k=5), PROBABILITIES.tolist())
    assert is_close(shares(top_p=1.0), PROBABILITIES.tolist())


def test_top_k_keeps_the_likeliest() -> None:
    assert is_close(shares(top_k=2), [0, 0.4 / 0.65, 0.25 / 0.65, 0, 0])
    assert shares(top_k=1).tolist() == [0, 1, 0, 0, 0]


def test_top_k_keeps_ties_and_allows_more_than_there_are() -> None:
    assert (keep_top_k(torch.tensor([0.4, 0.2, 0.2, 0.2]), 2) > 0).tolist() == [True] * 4
    assert torch.equal(keep_top_k(PROBABILITIES, 250), PROBABILITIES / PROBABILITIES.sum())


def test_top_p_keeps_the_token_that_crosses_the_limit() -> None:
    assert is_close(shares(top_p=0.5), [0, 0.4 / 0.65, 0.25 / 0.65, 0, 0])
    assert is_close(shares(top_p=0.7), [0, 0.4 / 0.85, 0.25 / 0.85, 0.2 / 0.85, 0])
    assert shares(top_p=0.01).tolist() == [0, 1, 0, 0, 0]


def test_top_p_wins_over_top_k() -> None:
    assert is_close(shares(top_p=0.7, top_k=1), [0, 0.4 / 0.85, 0.25 / 0.85, 0.2 / 0.85, 0])


def test_temperature_sharpens_and_flattens() -> None:
    squared = PROBABILITIES.square() / PROBABILITIES.square().sum()
    assert is_close(shares(temp=0.5, top_k=0), squared.tolist())
    root = PROBABILITIES.sqrt() / PROBABILITIES.sqrt().sum()
    assert is_close(shares(temp=2.0, top_k=0), root.tolist())
    assert shares(temp=0.0).tolist() == [0, 1, 0, 0, 0]


def test_seeds_and_shapes() -> None:
    logits = torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(1))
    first, second = (sample_tokens(logits, generator=torch.Generator().manual_seed(5)) for _ in range(2))
    assert first.shape == (2, 3) and torch.equal(first, second)
    before = torch.get_rng_state()
    sample_tokens(logits, generator=torch.Generator().manual_seed(5))
    assert torch.equal(torch.get_rng_state(), before)
    assert sample_tokens(logits.bfloat16(), top_p=0.5).dtype == torch.int64


@pytest.mark.parametrize("options", [{"temp": -0.1}, {"top_k": -1}, {"top_p": 1.5}])
def test_impossible_options(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"need temp >= 0, top_k >= 0 and top_p in \[0, 1\], got"):
        sample_tokens(PROBABILITIES, **options)  # type: ignore[arg-type]
