"""Demos of language models: the configured prompts, at every configured guidance scale."""

from __future__ import annotations

from typing import Any

from einops import rearrange

from stable_audio_tools.config.model import LMConfig, MusicgenConfig
from stable_audio_tools.config.training.lm import LMDemo
from stable_audio_tools.families import DEMOS
from stable_audio_tools.inference.lm import generate_lm
from stable_audio_tools.training.base import TrainingWrapper
from stable_audio_tools.training.demos.base import DemoCallback
from stable_audio_tools.training.lm.wrapper import AudioLanguageModelTrainingWrapper

UNCONDITIONED_DEMOS = 8


class LMDemoCallback(DemoCallback):
    """Writes ``demo_cfg_<scale>``: all clips one after the other, the same seed at every scale and step.

    Args:
        demo: The ``training.demo`` section.
        sample_size: Length of each clip, in samples.
    """

    def __init__(self, demo: LMDemo, sample_size: int) -> None:
        super().__init__(demo.demo_every)
        self.config = demo
        self.sample_size = sample_size

    def demo(self, wrapper: TrainingWrapper, batch: Any, step: int) -> None:
        assert isinstance(wrapper, AudioLanguageModelTrainingWrapper)
        conditioning = self.config.demo_cond
        count = len(conditioning) if conditioning else self.config.num_demos or UNCONDITIONED_DEMOS
        with wrapper.averaged() as model:
            for scale in self.config.demo_cfg_scales:
                audio = generate_lm(
                    model,  # type: ignore[arg-type]
                    conditioning=conditioning,
                    batch_size=count,
                    sample_size=self.sample_size,
                    seed=self.seed,
                    cfg_scale=scale,
                    top_p=0.95,
                )
                self.emit(f"demo_cfg_{scale:g}", rearrange(audio, "b c t -> c (b t)"), model.sample_rate, step)  # type: ignore[arg-type]


def _demo(config: LMConfig | MusicgenConfig) -> LMDemoCallback | None:
    assert config.training is not None
    if config.training.demo is None or config.sample_size is None:
        return None
    return LMDemoCallback(config.training.demo, config.sample_size)


@DEMOS.register("lm")
def demo_lm(config: LMConfig) -> LMDemoCallback | None:
    """The demos that a language model's config asks for; None if it has no ``training.demo``."""
    return _demo(config)


@DEMOS.register("musicgen")
def demo_musicgen(config: MusicgenConfig) -> LMDemoCallback | None:
    """The demos that a MusicGen's config asks for; None if it has no ``training.demo``."""
    return _demo(config)
