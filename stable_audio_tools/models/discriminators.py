"""Kept import path; the classes live in `stable_audio_tools.training.discriminators`, which is imported when one is asked for."""

from stable_audio_tools.optional import lazy

__getattr__ = lazy(
    __name__,
    DACGANLoss="stable_audio_tools.training.discriminators.dac",
    EncodecDiscriminator="stable_audio_tools.training.discriminators.encodec",
    OobleckDiscriminator="stable_audio_tools.training.discriminators.oobleck",
)
