"""Autoencoders: audio to latents and back."""

from stable_audio_tools.models.autoencoders.autoencoder import AudioAutoencoder
from stable_audio_tools.models.autoencoders.diffusion_autoencoder import DiffusionAutoencoder
from stable_audio_tools.models.autoencoders.oobleck import OobleckDecoder, OobleckEncoder

__all__ = ["AudioAutoencoder", "DiffusionAutoencoder", "OobleckDecoder", "OobleckEncoder"]
