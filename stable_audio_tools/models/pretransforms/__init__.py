"""Pretransforms: what a model works on instead of raw audio."""

from stable_audio_tools.models.pretransforms.autoencoder import AutoencoderPretransform
from stable_audio_tools.models.pretransforms.base import Pretransform
from stable_audio_tools.models.pretransforms.mel import MelPretransform
from stable_audio_tools.models.pretransforms.patched import PatchedPretransform

__all__ = ["AutoencoderPretransform", "MelPretransform", "PatchedPretransform", "Pretransform"]
