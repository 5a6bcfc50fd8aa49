"""Conditioners: from what users say to what networks take."""

from stable_audio_tools.models.conditioners.base import Condition, Conditioner
from stable_audio_tools.models.conditioners.byte_text import ByteTextConditioner
from stable_audio_tools.models.conditioners.int import IntConditioner
from stable_audio_tools.models.conditioners.multi import MultiConditioner
from stable_audio_tools.models.conditioners.number import NumberConditioner
from stable_audio_tools.models.conditioners.t5 import T5Conditioner

__all__ = [
    "ByteTextConditioner", "Condition", "Conditioner", "IntConditioner", "MultiConditioner", "NumberConditioner", "T5Conditioner",
]  # fmt: skip
