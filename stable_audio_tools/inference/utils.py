"""Kept import path; the functions live in `stable_audio_tools.audio`."""

from stable_audio_tools.audio import prepare_audio, set_audio_channels

__all__ = ["prepare_audio", "set_audio_channels"]
