"""Language models over the tokens of a codec."""

from stable_audio_tools.models.lm.backbone import ContinuousTransformerAudioLMBackbone
from stable_audio_tools.models.lm.model import AudioLanguageModel, LMOutput
from stable_audio_tools.models.lm.wrapper import AudioLanguageModelWrapper

__all__ = ["AudioLanguageModel", "AudioLanguageModelWrapper", "ContinuousTransformerAudioLMBackbone", "LMOutput"]
