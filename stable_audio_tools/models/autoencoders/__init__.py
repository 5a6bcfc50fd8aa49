"""Autoencoders: audio to latents and back."""

from stable_audio_tools.models.autoencoders.autoencoder import AudioAutoencoder, create_autoencoder_from_config
from stable_audio_tools.models.autoencoders.dac import DACDecoderWrapper, DACEncoderWrapper
from stable_audio_tools.models.autoencoders.diffusion_autoencoder import DiffusionAutoencoder, create_diffAE_from_config
from stable_audio_tools.models.autoencoders.local_attn import TransformerDecoder1D, TransformerEncoder1D
from stable_audio_tools.models.autoencoders.oobleck import DecoderBlock, EncoderBlock, OobleckDecoder, OobleckEncoder
from stable_audio_tools.models.autoencoders.resampling import TransformerResamplingBlock
from stable_audio_tools.models.autoencoders.same import SAMEDecoder, SAMEEncoder
from stable_audio_tools.models.autoencoders.seanet import SEANetDecoder, SEANetEncoder
from stable_audio_tools.models.autoencoders.taae import TAAEBlock, TAAEDecoder, TAAEEncoder
from stable_audio_tools.models.layers.residual import ResidualUnit

__all__ = [
    "AudioAutoencoder", "DACDecoderWrapper", "DACEncoderWrapper", "DecoderBlock", "DiffusionAutoencoder", "EncoderBlock", "OobleckDecoder",
    "OobleckEncoder", "ResidualUnit", "SAMEDecoder", "SAMEEncoder", "SEANetDecoder", "SEANetEncoder", "TAAEBlock", "TAAEDecoder",
    "TAAEEncoder", "TransformerDecoder1D", "TransformerEncoder1D", "TransformerResamplingBlock", "create_autoencoder_from_config",
    "create_diffAE_from_config",
]  # fmt: skip
