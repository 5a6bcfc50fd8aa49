"""Conditioners: from what users say to what networks take."""

from stable_audio_tools.models.conditioners.base import Condition, Conditioner
from stable_audio_tools.models.conditioners.byte_text import ByteTextConditioner
from stable_audio_tools.models.conditioners.clap_audio import CLAPAudioConditioner
from stable_audio_tools.models.conditioners.clap_text import CLAPTextConditioner
from stable_audio_tools.models.conditioners.int import IntConditioner
from stable_audio_tools.models.conditioners.list import ListConditioner
from stable_audio_tools.models.conditioners.lut import TokenizerLUTConditioner
from stable_audio_tools.models.conditioners.multi import MultiConditioner, create_multi_conditioner_from_conditioning_config
from stable_audio_tools.models.conditioners.number import NumberConditioner
from stable_audio_tools.models.conditioners.phoneme import PhonemeConditioner
from stable_audio_tools.models.conditioners.pretransform import PretransformConditioner
from stable_audio_tools.models.conditioners.source_mix import SourceMixConditioner
from stable_audio_tools.models.conditioners.t5 import T5Conditioner
from stable_audio_tools.models.conditioners.t5gemma import T5GemmaConditioner

__all__ = [
    "ByteTextConditioner", "CLAPAudioConditioner", "CLAPTextConditioner", "Condition", "Conditioner", "IntConditioner", "ListConditioner",
    "MultiConditioner", "NumberConditioner", "PhonemeConditioner", "PretransformConditioner", "SourceMixConditioner", "T5Conditioner",
    "T5GemmaConditioner", "TokenizerLUTConditioner", "create_multi_conditioner_from_conditioning_config",
]  # fmt: skip
