"""Bottlenecks: between an autoencoder's encoder and its decoder."""

from stable_audio_tools.models.bottlenecks.base import Bottleneck, DiscreteBottleneck
from stable_audio_tools.models.bottlenecks.dac_rvq import DACRVQBottleneck, DACRVQVAEBottleneck
from stable_audio_tools.models.bottlenecks.fsq import DitheredFSQBottleneck, FSQBottleneck
from stable_audio_tools.models.bottlenecks.l2_norm import L2Bottleneck
from stable_audio_tools.models.bottlenecks.rvq import RVQBottleneck, RVQVAEBottleneck
from stable_audio_tools.models.bottlenecks.softnorm import SoftNormBottleneck
from stable_audio_tools.models.bottlenecks.tanh import TanhBottleneck
from stable_audio_tools.models.bottlenecks.vae import VAEBottleneck, vae_sample
from stable_audio_tools.models.bottlenecks.wasserstein import WassersteinBottleneck

__all__ = [
    "Bottleneck", "DACRVQBottleneck", "DACRVQVAEBottleneck", "DiscreteBottleneck", "DitheredFSQBottleneck", "FSQBottleneck", "L2Bottleneck",
    "RVQBottleneck", "RVQVAEBottleneck", "SoftNormBottleneck", "TanhBottleneck", "VAEBottleneck", "WassersteinBottleneck", "vae_sample",
]  # fmt: skip
