"""Parallel: all codebooks at once."""

from __future__ import annotations

from stable_audio_tools.config.base import PositiveInt
from stable_audio_tools.families import PATTERNS
from stable_audio_tools.models.lm.patterns.delay import DelayPattern


@PATTERNS.register("parallel")
class ParallelPattern(DelayPattern):
    """Step t + 1 has token t of every codebook: T + 1 steps, and codebooks are drawn independently of each other."""

    def __init__(self, num_quantizers: PositiveInt) -> None:
        super().__init__(num_quantizers, delays=[0] * num_quantizers)
