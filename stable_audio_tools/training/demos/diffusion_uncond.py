"""Demos of unconditional diffusion models: clips from the same noise at every step."""

from __future__ import annotations

from typing import Any

from einops import rearrange

from stable_audio_tools.config.model import DiffusionUncondConfig
from stable_audio_tools.config.training.diffusion import DiffusionDemo
from stable_audio_tools.families import DEMOS
from stable_audio_tools.inference.generation import generate_diffusion_uncond
from stable_audio_tools.training.base import TrainingWrapper
from stable_audio_tools.training.demos.base import DemoCallback
from stable_audio_tools.training.diffusion.uncond import DiffusionUncondTrainingWrapper


class DiffusionUncondDemoCallback(DemoCallback):
    """Writes ``demo``: all clips one after the other.

    Args:
        demo: The ``training.demo`` section.
        sample_size: Length of each clip, in samples.
    """

    def __init__(self, demo: DiffusionDemo, sample_size: int) -> None:
        super().__init__(demo.demo_every)
        self.config = demo
        self.sample_size = sample_size

    def demo(self, wrapper: TrainingWrapper, batch: Any, step: int) -> None:
        assert isinstance(wrapper, DiffusionUncondTrainingWrapper)
        with wrapper.averaged() as model:
            audio = generate_diffusion_uncond(
                model,  # type: ignore[arg-type]
                steps=self.config.demo_steps,
                batch_size=self.config.num_demos,
                sample_size=self.sample_size,
                seed=self.seed,
                device=wrapper.device,
                sampler_type={"v": "v-ddim"}.get(wrapper.diffusion.diffusion_objective),
                disable_tqdm=True,
            )
        self.emit("demo", rearrange(audio, "b c t -> c (b t)"), wrapper.diffusion.sample_rate, step)


@DEMOS.register("diffusion_uncond")
def demo_diffusion_uncond(config: DiffusionUncondConfig) -> DiffusionUncondDemoCallback | None:
    """The demos that an unconditional model's config asks for; None if it asks for none."""
    training = config.training
    assert training is not None
    keys = ("demo_every", "demo_steps", "num_demos")
    beside = {key: getattr(training, key) for key in keys if getattr(training, key) is not None}
    demo = training.demo or (DiffusionDemo.model_validate(beside) if beside else None)
    return DiffusionUncondDemoCallback(demo, config.sample_size) if demo is not None and config.sample_size is not None else None
