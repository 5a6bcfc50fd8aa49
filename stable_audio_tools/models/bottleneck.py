"""Kept import path; the classes live in `stable_audio_tools.models.bottlenecks`."""

from stable_audio_tools.models.bottlenecks import Bottleneck, L2Bottleneck, TanhBottleneck, VAEBottleneck, vae_sample

__all__ = ["Bottleneck", "L2Bottleneck", "TanhBottleneck", "VAEBottleneck", "vae_sample"]
