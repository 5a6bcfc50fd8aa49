"""Unroll: one token per step."""

from __future__ import annotations

from torch import Tensor

from stable_audio_tools.families import PATTERNS
from stable_audio_tools.models.lm.patterns.base import PatternProvider, one_token_per_step


@PATTERNS.register("unroll")
class UnrollPattern(PatternProvider):
    """For each time, one codebook after the other: K T + 1 steps, and every token sees all before it."""

    def times(self, num_tokens: int) -> Tensor:
        places = [(time, codebook) for time in range(num_tokens) for codebook in range(self.num_quantizers)]
        return one_token_per_step(places, self.num_quantizers)
