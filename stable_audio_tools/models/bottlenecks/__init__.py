"""Bottlenecks: between an autoencoder's encoder and its decoder."""

from stable_audio_tools.models.bottlenecks.base import Bottleneck
from stable_audio_tools.models.bottlenecks.l2_norm import L2Bottleneck
from stable_audio_tools.models.bottlenecks.tanh import TanhBottleneck
from stable_audio_tools.models.bottlenecks.vae import VAEBottleneck, vae_sample

__all__ = ["Bottleneck", "L2Bottleneck", "TanhBottleneck", "VAEBottleneck", "vae_sample"]
