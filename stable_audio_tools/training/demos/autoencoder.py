"""Demos of autoencoders: the same clips each time, beside their reconstructions, and where their latents lie."""

from __future__ import annotations

from typing import Any

from einops import rearrange
from torch import Tensor

from stable_audio_tools.audio.point_cloud import point_cloud_image
from stable_audio_tools.config.model import AutoencoderConfig
from stable_audio_tools.families import DEMOS
from stable_audio_tools.models.autoencoders.autoencoder import AudioAutoencoder
from stable_audio_tools.training.autoencoders.wrapper import AutoencoderTrainingWrapper
from stable_audio_tools.training.base import TrainingWrapper, unbatch
from stable_audio_tools.training.demos.base import DemoCallback


class AutoencoderDemoCallback(DemoCallback):
    """Writes ``recon``: original and reconstruction in turn, and ``latents``: a cloud of points. Logs statistics of the latents.

    The clips are those of the first batch that it sees.

    Args:
        demo_every: Optimizer steps between demos.
        max_clips: Clips of the batch that are used.
        **decoding: For ``decode`` of the model.
    """

    def __init__(self, demo_every: int, max_clips: int = 8, **decoding: Any) -> None:
        super().__init__(demo_every)
        self.max_clips = max_clips
        self.decoding = decoding
        self.clips: Tensor | None = None

    def demo(self, wrapper: TrainingWrapper, batch: Any, step: int) -> None:
        if self.clips is None:
            self.clips = unbatch(batch)[0][: self.max_clips].detach().cpu()
        reals = self.clips.to(wrapper.device)
        with wrapper.averaged() as model:
            assert isinstance(model, AudioAutoencoder)
            heard = wrapper.heard(reals) if isinstance(wrapper, AutoencoderTrainingWrapper) else reals
            latents = model.encode(heard)  # (B, D, L)
            decoded = model.decode(latents, **self.decoding).to(reals)
        length = min(reals.shape[-1], decoded.shape[-1])
        pairs = rearrange([reals[..., :length], decoded[..., :length]], "p b c t -> c (b p t)")
        self.emit("recon", pairs, model.sample_rate, step)
        cloud = point_cloud_image(latents, self._folder / f"latents_{step:08d}.png", title=f"latents, step {step}")
        self.sink.log_image("latents_3d", cloud, step)
        for sink in self.sink.loggers:
            sink.log_metrics(statistics(latents), step)

    def state_dict(self) -> dict[str, Any]:
        """The clips, so that a resumed run shows the same ones."""
        return {"clips": self.clips}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.clips = state_dict["clips"]


def statistics(latents: Tensor) -> dict[str, float]:
    """What latents (B, D, L) look like: overall spread, and the smallest and largest spread of a channel, 0 being one that says nothing."""
    latents = latents.detach().float()
    channels = latents.transpose(0, 1).flatten(1).std(dim=1)  # (D,)
    return {
        "demo/latent_mean": float(latents.mean()),
        "demo/latent_std": float(latents.std()),
        "demo/latent_channel_std_min": float(channels.min()),
        "demo/latent_channel_std_max": float(channels.max()),
    }


@DEMOS.register("autoencoder")
def demo_autoencoder(config: AutoencoderConfig) -> AutoencoderDemoCallback:
    """The demos that an autoencoder's config asks for."""
    assert config.training is not None
    return AutoencoderDemoCallback(config.training.demo.demo_every)
