"""MusicLM: coarse codebooks of the whole clip first, then finer ones."""

from __future__ import annotations

from torch import Tensor

from stable_audio_tools.config.base import PositiveInt
from stable_audio_tools.errors import ConfigError
from stable_audio_tools.families import PATTERNS
from stable_audio_tools.models.lm.patterns.base import PatternProvider, one_token_per_step


@PATTERNS.register("musiclm")
class MusicLMPattern(PatternProvider):
    """For each group of codebooks, for each time, one codebook after the other: K T + 1 steps.

    Source: Agostinelli et al. 2023, arXiv:2301.11325.

    Args:
        num_quantizers: Codebooks K.
        group_by: Codebooks per group; must divide K.
    """

    def __init__(self, num_quantizers: PositiveInt, group_by: PositiveInt = 2) -> None:
        super().__init__(num_quantizers)
        if group_by < 1 or num_quantizers % group_by:
            raise ConfigError(f'codebook pattern "musiclm": goes in groups of {group_by} codebooks, but there are {num_quantizers}')
        self.group_by = group_by

    def times(self, num_tokens: int) -> Tensor:
        groups = range(0, self.num_quantizers, self.group_by)
        places = [(time, first + index) for first in groups for time in range(num_tokens) for index in range(self.group_by)]
        return one_token_per_step(places, self.num_quantizers)
