"""Kept import path; the classes live in `stable_audio_tools.training.discriminators`, which is imported when one is asked for."""

from stable_audio_tools.optional import lazy

__getattr__ = lazy(__name__, EncodecDiscriminator="stable_audio_tools.training.discriminators.encodec")
