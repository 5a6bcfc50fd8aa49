"""Demos of inpainting models: gaps in items of the data, filled at every configured guidance scale."""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange

from stable_audio_tools.config.model import DiffusionCondInpaintConfig
from stable_audio_tools.config.training.diffusion import DiffusionCondInpaintDemo
from stable_audio_tools.families import DEMOS
from stable_audio_tools.inference.generation import generate_diffusion_cond_inpaint
from stable_audio_tools.training.base import TrainingWrapper, unbatch
from stable_audio_tools.training.demos.base import DemoCallback
from stable_audio_tools.training.diffusion.cond import DiffusionCondTrainingWrapper


class DiffusionCondInpaintDemoCallback(DemoCallback):
    """Writes ``demo_cfg_<scale>``: items of the current batch whose second half is made anew, one after the other.

    Args:
        demo: The ``training.demo`` section.
        sample_size: Length of each clip, in samples.
    """

    def __init__(self, demo: DiffusionCondInpaintDemo, sample_size: int) -> None:
        super().__init__(demo.demo_every)
        self.config = demo
        self.sample_size = sample_size

    def demo(self, wrapper: TrainingWrapper, batch: Any, step: int) -> None:
        assert isinstance(wrapper, DiffusionCondTrainingWrapper)
        reals, metadata = unbatch(batch)
        reals, metadata = reals[: self.config.num_demos].to(wrapper.device), [dict(item) for item in metadata[: self.config.num_demos]]
        with wrapper.averaged() as model:
            audio = reals
            if wrapper.training_config.pre_encoded and model.pretransform is not None:
                audio = model.pretransform.decode(wrapper.latents_of(reals))  # type: ignore[operator]
            size = min(self.sample_size, audio.shape[-1])
            mask = torch.ones(1, size)
            mask[:, size // 2 :] = 0
            for scale in self.config.demo_cfg_scales:
                clips = [
                    generate_diffusion_cond_inpaint(
                        model,  # type: ignore[arg-type]
                        steps=self.config.demo_steps,
                        cfg_scale=scale,
                        conditioning=[item],
                        sample_size=size,
                        seed=self.seed,
                        device=wrapper.device,
                        inpaint_audio=(model.sample_rate, clip),  # type: ignore[arg-type]
                        inpaint_mask=mask,
                        sampler_type={"v": "v-ddim"}.get(wrapper.diffusion.diffusion_objective),
                        disable_tqdm=True,
                    )
                    for clip, item in zip(audio, metadata, strict=True)
                ]
                joined = torch.cat([rearrange(clip, "1 c t -> c t") for clip in clips], dim=-1)
                self.emit(f"demo_cfg_{scale:g}", joined, model.sample_rate, step)  # type: ignore[arg-type]


@DEMOS.register("diffusion_cond_inpaint")
def demo_diffusion_cond_inpaint(config: DiffusionCondInpaintConfig) -> DiffusionCondInpaintDemoCallback | None:
    """The demos that an inpainting model's config asks for; None if it has no ``training.demo``."""
    assert config.training is not None
    if config.training.demo is None or config.sample_size is None:
        return None
    return DiffusionCondInpaintDemoCallback(config.training.demo, config.sample_size)
