"""Demos of conditional diffusion models: the configured prompts, at every configured guidance scale."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from einops import rearrange
from torch import Tensor

from stable_audio_tools.config.model import DiffusionCondConfig
from stable_audio_tools.config.training.diffusion import DiffusionCondDemo
from stable_audio_tools.families import DEMOS
from stable_audio_tools.inference.generation import generate_diffusion_cond
from stable_audio_tools.training.base import TrainingWrapper, unbatch
from stable_audio_tools.training.demos.base import DemoCallback
from stable_audio_tools.training.demos.conditions import shown_conditions
from stable_audio_tools.training.diffusion.cond import DiffusionCondTrainingWrapper
from stable_audio_tools.training.sections import takes_keys_of


@takes_keys_of(DiffusionCondDemo, "demo", renamed={"demo_conditioning": "demo_cond"}, ignored=("sample_rate", "demo_dl"))
class DiffusionCondDemoCallback(DemoCallback):
    """Writes ``demo_cfg_<scale>``: all clips one after the other, the same seed at every scale and step.

    Conditions that are audio are written beside it if the config asks for that; see `demos.conditions`.

    Args:
        demo: The ``training.demo`` section. Its keys may be given as keywords instead, ``demo_cond`` as ``demo_conditioning`` too.
        sample_size: Length of each clip, in samples.
    """

    def __init__(self, demo: DiffusionCondDemo, sample_size: int = 65536) -> None:
        super().__init__(demo.demo_every)
        self.config = demo
        self.sample_size = sample_size

    def demo(self, wrapper: TrainingWrapper, batch: Any, step: int) -> None:
        assert isinstance(wrapper, DiffusionCondTrainingWrapper)
        conditioning = self.config.demo_cond
        if self.config.demo_cond_from_batch:
            conditioning = [dict(item) for item in unbatch(batch)[1][: self.config.num_demos]]
        sampler = {"v": "v-ddim"}.get(wrapper.diffusion.diffusion_objective)
        with wrapper.averaged() as model:
            shown = shown_conditions(self.config, conditioning, wrapper.pretransform)
            self._emit_all({name: clip for each in shown for name, clip in each.alone().items()}, model, step)
            for scale in self.config.demo_cfg_scales:
                audio = generate_diffusion_cond(
                    model,  # type: ignore[arg-type]
                    steps=self.config.demo_steps,
                    cfg_scale=scale,
                    conditioning=conditioning,
                    batch_size=len(conditioning),
                    sample_size=self.sample_size,
                    seed=self.seed,
                    device=wrapper.device,
                    sampler_type=sampler,
                    disable_tqdm=True,
                )
                beside = {name: clip for each in shown for name, clip in each.with_made(audio, scale).items()}
                self._emit_all({f"demo_cfg_{scale:g}": rearrange(audio, "b c t -> c (b t)"), **beside}, model, step)

    def _emit_all(self, clips: Mapping[str, Tensor], model: Any, step: int) -> None:
        for name, clip in clips.items():
            self.emit(name, clip, model.sample_rate, step)


@DEMOS.register("diffusion_cond")
def demo_diffusion_cond(config: DiffusionCondConfig) -> DiffusionCondDemoCallback | None:
    """The demos that a conditional diffusion model's config asks for; None if it has no ``training.demo``."""
    assert config.training is not None
    if config.training.demo is None or config.sample_size is None:
        return None
    return DiffusionCondDemoCallback(config.training.demo, config.sample_size)
