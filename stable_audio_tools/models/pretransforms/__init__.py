"""Pretransforms: what a model works on instead of raw audio."""

from stable_audio_tools.models.pretransforms.audiocraft_pretrained import AudiocraftCompressionPretransform
from stable_audio_tools.models.pretransforms.autoencoder import AutoencoderPretransform
from stable_audio_tools.models.pretransforms.base import Pretransform
from stable_audio_tools.models.pretransforms.dac_pretrained import PretrainedDACPretransform
from stable_audio_tools.models.pretransforms.mel import MelPretransform
from stable_audio_tools.models.pretransforms.patched import PatchedPretransform
from stable_audio_tools.models.pretransforms.pqmf import PQMFPretransform
from stable_audio_tools.models.pretransforms.wavelet import WaveletPretransform

__all__ = [
    "AudiocraftCompressionPretransform", "AutoencoderPretransform", "MelPretransform", "PQMFPretransform", "PatchedPretransform",
    "PretrainedDACPretransform", "Pretransform", "WaveletPretransform",
]  # fmt: skip
