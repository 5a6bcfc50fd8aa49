"""Delay: each codebook one step behind the previous one."""

from __future__ import annotations

import torch
from torch import Tensor

from stable_audio_tools.config.base import NonNegativeInt, PositiveInt
from stable_audio_tools.errors import ConfigError
from stable_audio_tools.families import PATTERNS
from stable_audio_tools.models.lm.patterns.base import NOTHING, PatternProvider


@PATTERNS.register("delay")
class DelayPattern(PatternProvider):
    """Step t + 1 has token ``t - delay`` of every codebook: few more steps than tokens, and a codebook sees those before it.

    Args:
        num_quantizers: Codebooks K.
        delays: One per codebook, in steps; None is 0, 1, 2, ...
    """

    def __init__(self, num_quantizers: PositiveInt, delays: list[NonNegativeInt] | None = None) -> None:
        super().__init__(num_quantizers)
        self.delays = list(range(num_quantizers)) if delays is None else delays
        if len(self.delays) != num_quantizers or min(self.delays) < 0:
            raise ConfigError(f"codebook pattern: needs one delay of at least 0 for each of {num_quantizers} codebooks, got {delays}")

    def times(self, num_tokens: int) -> Tensor:
        steps = torch.arange(num_tokens + max(self.delays) + 1)
        times = steps[None] - 1 - torch.tensor(self.delays)[:, None]  # (K, S)
        return times.clamp(min=NOTHING)
