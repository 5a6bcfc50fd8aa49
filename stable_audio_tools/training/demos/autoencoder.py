"""Demos of autoencoders: clips from the current batch beside their reconstructions."""

from __future__ import annotations

from typing import Any

from einops import rearrange

from stable_audio_tools.config.model import AutoencoderConfig
from stable_audio_tools.families import DEMOS
from stable_audio_tools.models.autoencoders.autoencoder import AudioAutoencoder
from stable_audio_tools.training.base import TrainingWrapper, unbatch
from stable_audio_tools.training.demos.base import DemoCallback


class AutoencoderDemoCallback(DemoCallback):
    """Writes ``recon``: original and reconstruction in turn.

    Args:
        demo_every: Optimizer steps between demos.
        max_clips: Clips of the batch that are used.
        **decoding: For ``decode`` of the model.
    """

    def __init__(self, demo_every: int, max_clips: int = 8, **decoding: Any) -> None:
        super().__init__(demo_every)
        self.max_clips = max_clips
        self.decoding = decoding

    def demo(self, wrapper: TrainingWrapper, batch: Any, step: int) -> None:
        reals, _ = unbatch(batch)
        reals = reals[: self.max_clips].to(wrapper.device)
        with wrapper.averaged() as model:
            assert isinstance(model, AudioAutoencoder)
            decoded = model.decode(model.encode(reals), **self.decoding).to(reals)
        length = min(reals.shape[-1], decoded.shape[-1])
        pairs = rearrange([reals[..., :length], decoded[..., :length]], "p b c t -> c (b p t)")
        self.emit("recon", pairs, model.sample_rate, step)


@DEMOS.register("autoencoder")
def demo_autoencoder(config: AutoencoderConfig) -> AutoencoderDemoCallback:
    """The demos that an autoencoder's config asks for."""
    assert config.training is not None
    return AutoencoderDemoCallback(config.training.demo.demo_every)
