"""Patterns: tokens (B, K, T) of several codebooks as one sequence of steps (B, K, S), and back.

Letters: B batch, K codebooks, T tokens per codebook, S steps of the sequence, V codebook size. Source: Copet et al. 2023, arXiv:2306.05284.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from stable_audio_tools.config.base import PositiveInt
from stable_audio_tools.families import PATTERNS

NOTHING = -1  # in a table: no token here
MAX_KEPT = 100  # patterns of a provider


class LogitsOfPattern(NamedTuple):
    """Logits by token rather than by step.

    Attributes:
        logits: (B, K, T, V), NaN where the sequence has no step that predicts the token.
        mask: (K, T), True where it has one.
    """

    logits: Tensor
    mask: Tensor


class Pattern:
    """Which token of which codebook stands at which step.

    At every step a codebook has one token or none; step 0 is always empty, so that there is something to predict the first from.

    Args:
        times: (K, S) of integers: the token of each codebook at each step, -1 for none. The tokens of a codebook come in order. Tokens
            from ``num_tokens`` on may be there, and count as none.
        num_tokens: T
    """

    def __init__(self, times: Tensor, num_tokens: int) -> None:
        beyond = int(times.max()) + 1 - num_tokens if times.numel() else 0
        self.num_tokens = num_tokens
        self.num_steps = times.shape[1]
        self.num_valid_steps = self.num_steps - max(beyond, 0)  # the steps up to which no codebook has run out of tokens
        self.times = times.masked_fill(times >= num_tokens, NOTHING)  # (K, S)
        self.steps = self._steps_of(self.times, num_tokens)  # (K, T)

    @staticmethod
    def _steps_of(times: Tensor, num_tokens: int) -> Tensor:
        """The step of every token: (K, T)."""
        steps = torch.full((times.shape[0], num_tokens), NOTHING)
        for codebook, row in enumerate(times):
            (places,) = (row != NOTHING).nonzero(as_tuple=True)
            in_order = torch.arange(num_tokens)
            assert torch.equal(row[places], in_order)  # every token once, in order
            steps[codebook] = places
        assert bool((times[:, 0] == NOTHING).all())  # step 0 is empty
        return steps

    def first_step_of(self, time: int) -> int:
        """The first step that has token ``time`` of any codebook."""
        return int(self.steps[:, time].min())

    def build_pattern_sequence(self, z: Tensor, special_token: int, keep_only_valid_steps: bool = False) -> tuple[Tensor, Tensor]:
        """Tokens to steps.

        Args:
            z: (B, K, T)
            special_token: Where a step has no token.
            keep_only_valid_steps: Leave out the last steps, from where a codebook has run out of tokens.

        Returns:
            The sequence (B, K, S), and its mask (K, S), True where it has a token.
        """
        times = self.times[:, : self.num_valid_steps] if keep_only_valid_steps else self.times
        times = times.to(z.device)
        is_token = times != NOTHING  # (K, S)
        if not z.shape[-1]:
            return z.new_full((*z.shape[:-1], times.shape[1]), special_token), is_token
        gathered = z.gather(2, times.clamp(min=0).expand(z.shape[0], -1, -1))  # (B, K, S)
        return torch.where(is_token, gathered, special_token), is_token

    def revert_pattern_sequence(self, s: Tensor, special_token: int) -> tuple[Tensor, Tensor]:
        """Steps to tokens: the inverse of `build_pattern_sequence`.

        Args:
            s: (B, K, S'), the first steps of the sequence or all.
            special_token: Where a token's step is not among them.

        Returns:
            Tokens (B, K, T), and their mask (K, T), True where the step was there.
        """
        gathered, mask = self._gather(s[..., None], self.steps, s.shape[-1])
        return torch.where(mask, gathered[..., 0], special_token), mask

    def revert_pattern_logits(self, logits: Tensor, special_token: float = float("nan")) -> LogitsOfPattern:
        """Logits by step to logits by token: those of step s predict step s + 1.

        Args:
            logits: (B, K, S', V)
            special_token: Where no step predicts the token.
        """
        gathered, mask = self._gather(logits, self.steps - 1, logits.shape[2] - 1)
        return LogitsOfPattern(torch.where(mask[..., None], gathered, special_token), mask)

    @staticmethod
    def _gather(values: Tensor, steps: Tensor, num_steps: int) -> tuple[Tensor, Tensor]:
        """``values`` (B, K, S', V) at ``steps`` (K, T): (B, K, T, V), and (K, T), True where the step is below ``num_steps``."""
        steps = steps.to(values.device)
        mask = steps < num_steps
        index = steps.clamp(max=values.shape[2] - 1)[None, ..., None]  # (1, K, T, 1)
        return values.gather(2, index.expand(values.shape[0], -1, -1, values.shape[3])), mask


class PatternProvider:
    """A way to order tokens, for any number of them.

    Args:
        num_quantizers: Codebooks K.
    """

    def __init__(self, num_quantizers: PositiveInt) -> None:
        self.num_quantizers = num_quantizers
        self._patterns: dict[int, Pattern] = {}

    def times(self, num_tokens: int) -> Tensor:
        """The table of a `Pattern`: (K, S)."""
        raise NotImplementedError

    def get_pattern(self, num_tokens: int) -> Pattern:
        """The pattern for ``num_tokens`` tokens per codebook; kept for the next time."""
        if num_tokens not in self._patterns:
            if len(self._patterns) >= MAX_KEPT:
                self._patterns.clear()
            self._patterns[num_tokens] = Pattern(self.times(num_tokens), num_tokens)
        return self._patterns[num_tokens]


def one_token_per_step(places: Sequence[tuple[int, int]], num_quantizers: int) -> Tensor:
    """The table of a pattern (K, S) whose steps after the empty first one have these (time, codebook)."""
    times = torch.full((num_quantizers, len(places) + 1), NOTHING)
    if places:
        time, codebook = torch.tensor(places).unbind(-1)
        times[codebook, torch.arange(1, len(places) + 1)] = time
    return times


__all__ = ["NOTHING", "PATTERNS", "LogitsOfPattern", "Pattern", "PatternProvider", "one_token_per_step"]
