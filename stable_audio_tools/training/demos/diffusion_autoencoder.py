"""Demos of diffusion autoencoders: those of autoencoders."""

from __future__ import annotations

from stable_audio_tools.config.model import DiffusionAutoencoderConfig
from stable_audio_tools.families import DEMOS
from stable_audio_tools.training.demos.autoencoder import AutoencoderDemoCallback


@DEMOS.register("diffusion_autoencoder")
def demo_diffusion_autoencoder(config: DiffusionAutoencoderConfig) -> AutoencoderDemoCallback | None:
    """The demos that a diffusion autoencoder's config asks for; None if it has no ``training.demo``."""
    assert config.training is not None
    demo = config.training.demo
    return AutoencoderDemoCallback(demo.demo_every, demo.num_demos, steps=demo.demo_steps) if demo is not None else None
