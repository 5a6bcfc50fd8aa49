"""Codebook patterns: there and back, in the order that they promise."""

from __future__ import annotations

import pickle

import pytest
import torch

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.families import PATTERNS
from stable_audio_tools.models.lm.patterns import DelayPattern, MusicLMPattern, Pattern, PatternProvider
from stable_audio_tools.models.lm.patterns.base import MAX_KEPT

NAMES = PATTERNS.names()
SPECIAL = 99


def provider_of(name: str, codebooks: int) -> PatternProvider:
    return PATTERNS.build(name, num_quantizers=codebooks)


def steps_of(name: str, codebooks: int, tokens: int) -> list[list[tuple[int, int]]]:
    """The (time, codebook) of every step."""
    times = provider_of(name, codebooks).get_pattern(tokens).times
    return [[(int(t), q) for q, t in enumerate(column) if t >= 0] for column in times.T]


def test_the_families_of_the_published_code() -> None:
    assert NAMES == ["delay", "musiclm", "parallel", "unroll"]


def test_orders() -> None:
    assert steps_of("parallel", 2, 2) == [[], [(0, 0), (0, 1)], [(1, 0), (1, 1)]]
    assert steps_of("delay", 2, 2) == [[], [(0, 0)], [(1, 0), (0, 1)], [(1, 1)]]
    assert steps_of("unroll", 2, 2) == [[], [(0, 0)], [(0, 1)], [(1, 0)], [(1, 1)]]
    assert steps_of("musiclm", 4, 2) == [[], *([(t, q)] for q in (0, 2) for t, q in ((0, q), (0, q + 1), (1, q), (1, q + 1)))]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("codebooks", "tokens"), [(4, 1), (4, 2), (2, 9), (6, 5)])
def test_revert_is_the_inverse_of_build(name: str, codebooks: int, tokens: int) -> None:
    pattern = provider_of(name, codebooks).get_pattern(tokens)
    codes = torch.randint(0, 50, (3, codebooks, tokens), generator=torch.Generator().manual_seed(0))
    sequence, mask = pattern.build_pattern_sequence(codes, SPECIAL)
    assert sequence.shape == (3, codebooks, pattern.num_steps)
    assert torch.equal(sequence == SPECIAL, ~mask.expand(3, -1, -1))
    assert int(mask.sum()) == codebooks * tokens and not mask[:, 0].any()
    reverted, is_there = pattern.revert_pattern_sequence(sequence, -1)
    assert torch.equal(reverted, codes) and is_there.all()


@pytest.mark.parametrize("name", NAMES)
def test_a_cut_sequence_gives_the_tokens_that_it_has(name: str) -> None:
    pattern = provider_of(name, 4).get_pattern(5)
    codes = torch.arange(20).view(1, 4, 5)
    sequence, mask = pattern.build_pattern_sequence(codes, SPECIAL)
    for length in range(1, pattern.num_steps):
        reverted, is_there = pattern.revert_pattern_sequence(sequence[..., :length], -1)
        assert int(is_there.sum()) == int(mask[:, :length].sum())
        assert torch.equal(reverted[0][is_there], codes[0][is_there]) and (reverted[0][~is_there] == -1).all()


@pytest.mark.parametrize("name", NAMES)
def test_logits_of_a_step_are_those_of_the_tokens_of_the_next(name: str) -> None:
    pattern = provider_of(name, 4).get_pattern(5)
    steps = torch.arange(pattern.num_steps, dtype=torch.float32).expand(1, 4, -1)[..., None]  # every logit is its step
    logits, mask = pattern.revert_pattern_logits(steps)
    assert mask.all() and torch.equal(logits[0, ..., 0].long(), pattern.steps - 1)


def test_as_many_steps_as_tokens_reach_all_but_the_last_of_delayed_codebooks() -> None:
    pattern = provider_of("delay", 3).get_pattern(4)
    sequence, _ = pattern.build_pattern_sequence(torch.zeros(1, 3, 4, dtype=torch.long), SPECIAL, keep_only_valid_steps=True)
    assert sequence.shape[-1] == pattern.num_valid_steps == 5
    logits, mask = pattern.revert_pattern_logits(torch.zeros(1, 3, 5, 7))
    assert mask.sum(dim=-1).tolist() == [4, 3, 2]
    assert torch.equal(logits.isnan().any(dim=-1)[0], ~mask)
    for name in ("parallel", "unroll", "musiclm"):
        pattern = provider_of(name, 4).get_pattern(4)
        assert pattern.num_valid_steps == pattern.num_steps


def test_an_unknown_pattern_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="unknown codebook pattern 'dely'; did you mean 'delay'"):
        PATTERNS.build("dely", num_quantizers=2)


def test_musiclm_needs_whole_groups() -> None:
    with pytest.raises(ConfigError, match='codebook pattern "musiclm": goes in groups of 2 codebooks, but there are 3'):
        MusicLMPattern(3)


def test_delays_are_one_per_codebook() -> None:
    with pytest.raises(ConfigError, match="needs one delay of at least 0 for each of 2 codebooks, got \\[0\\]"):
        DelayPattern(2, [0])
    assert DelayPattern(4, [0, 0, 1, 1]).get_pattern(2).steps.tolist() == [[1, 2], [1, 2], [2, 3], [2, 3]]


def test_a_table_that_loses_or_swaps_tokens_is_refused() -> None:
    for row in ([-1, 0, 0], [-1, 1, 0], [-1, 0, -1]):
        with pytest.raises(AssertionError):
            Pattern(torch.tensor([row]), 2)
    with pytest.raises(AssertionError):
        Pattern(torch.tensor([[0, 1]]), 2)


def test_providers_survive_pickling_and_forget_when_there_are_many() -> None:
    provider = DelayPattern(2)
    provider.get_pattern(5)
    assert torch.equal(pickle.loads(pickle.dumps(provider)).get_pattern(5).times, provider.get_pattern(5).times)
    for count in range(1, 2 * MAX_KEPT):
        assert provider.get_pattern(count).times.shape[1] > count
