"""Codebook patterns: in which order a language model sees and makes the tokens of several codebooks."""

from stable_audio_tools.models.lm.patterns.base import LogitsOfPattern, Pattern, PatternProvider
from stable_audio_tools.models.lm.patterns.delay import DelayPattern
from stable_audio_tools.models.lm.patterns.musiclm import MusicLMPattern
from stable_audio_tools.models.lm.patterns.parallel import ParallelPattern
from stable_audio_tools.models.lm.patterns.unroll import UnrollPattern

__all__ = ["DelayPattern", "LogitsOfPattern", "MusicLMPattern", "ParallelPattern", "Pattern", "PatternProvider", "UnrollPattern"]
