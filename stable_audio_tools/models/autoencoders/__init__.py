"""Autoencoders: audio to latents and back."""

from stable_audio_tools.models.autoencoders.autoencoder import AudioAutoencoder, create_autoencoder_from_config
from stable_audio_tools.models.autoencoders.dac import DACDecoderWrapper, DACEncoderWrapper
from stable_audio_tools.models.autoencoders.diffusion_autoencoder import DiffusionAutoencoder, create_diffAE_from_config
from stable_audio_tools.models.autoencoders.oobleck import DecoderBlock, EncoderBlock, OobleckDecoder, OobleckEncoder, ResidualUnit
from stable_audio_tools.models.autoencoders.seanet import SEANetDecoder, SEANetEncoder

__all__ = [
    "AudioAutoencoder", "DACDecoderWrapper", "DACEncoderWrapper", "DecoderBlock", "DiffusionAutoencoder", "EncoderBlock",
    "OobleckDecoder", "OobleckEncoder", "ResidualUnit", "SEANetDecoder", "SEANetEncoder", "create_autoencoder_from_config",
    "create_diffAE_from_config",
]  # fmt: skip
