"""Demos of autoencoders: clips from the current batch beside their reconstructions."""

from __future__ import annotations

from typing import Any

from einops import rearrange

from stable_audio_tools.config.model import AutoencoderConfig
from stable_audio_tools.families import DEMOS
from stable_audio_tools.training.autoencoders.wrapper import AutoencoderTrainingWrapper
from stable_audio_tools.training.base import TrainingWrapper, unbatch
from stable_audio_tools.training.demos.base import DemoCallback

MAX_CLIPS = 8


class AutoencoderDemoCallback(DemoCallback):
    """Writes ``recon``: original and reconstruction in turn."""

    def demo(self, wrapper: TrainingWrapper, batch: Any, step: int) -> None:
        assert isinstance(wrapper, AutoencoderTrainingWrapper)
        reals, _ = unbatch(batch)
        reals = reals[:MAX_CLIPS].to(wrapper.device)
        with wrapper.averaged() as model:
            decoded = model.decode(model.encode(reals)).to(reals)  # type: ignore[operator]
        length = min(reals.shape[-1], decoded.shape[-1])
        pairs = rearrange([reals[..., :length], decoded[..., :length]], "p b c t -> c (b p t)")
        self.emit("recon", pairs, wrapper.autoencoder.sample_rate, step)


@DEMOS.register("autoencoder")
def demo_autoencoder(config: AutoencoderConfig) -> AutoencoderDemoCallback:
    """The demos that an autoencoder's config asks for."""
    assert config.training is not None
    return AutoencoderDemoCallback(config.training.demo.demo_every)
