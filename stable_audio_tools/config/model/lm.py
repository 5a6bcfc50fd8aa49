"""Model configs of language models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from stable_audio_tools.config.base import Component, Strict, part_mistakes
from stable_audio_tools.config.model.base import ModelConfig
from stable_audio_tools.config.model.conditioning import ConditioningModel, demo_conflicts, unknown_ids, wrong_widths
from stable_audio_tools.config.model.parts import PretransformBlock, audio_of
from stable_audio_tools.config.training.lm import LMTraining
from stable_audio_tools.families import PATTERNS
from stable_audio_tools.registry import Mistake


class LMBlock(Component):
    """The language model, and how conditions reach it."""

    family: ClassVar[str] = "LM_BACKBONES"
    codebook_pattern: str = "delay"
    cross_attention_cond_ids: list[str] = []
    prepend_cond_ids: list[str] = []
    global_cond_ids: list[str] = []

    def conflicts(self) -> Iterator[Mistake]:
        yield from part_mistakes(PATTERNS, self.codebook_pattern, ("codebook_pattern",), None, ())
        if self.global_cond_ids:
            yield Mistake(("global_cond_ids",), "warning: have no effect: no language model uses global conditions", "warning")


class LMModel(Strict):
    """``model`` of a language model over the tokens of a pretransform."""

    pretransform: PretransformBlock
    lm: LMBlock
    conditioning: ConditioningModel | None = None

    def conflicts(self) -> Iterator[Mistake]:
        keys = ("cross_attention_cond_ids", "prepend_cond_ids", "global_cond_ids")
        yield from unknown_ids(self.conditioning, "lm", {key: getattr(self.lm, key) for key in keys})
        ids = {"cross_attn_cond_dim": self.lm.cross_attention_cond_ids, "prepend_cond_dim": self.lm.prepend_cond_ids}
        yield from wrong_widths(self.conditioning, "lm", self.lm, ids)


class LMConfig(ModelConfig):
    """A language model over the tokens of a codec."""

    model_type: Literal["lm"]  # pyright: ignore[reportIncompatibleVariableOverride]
    model: LMModel
    training: LMTraining | None = None

    def input_multiple(self) -> int | None:
        return self.model.pretransform.ratio()

    def audio_source(self) -> tuple[int | None, str]:
        return audio_of(self.model.pretransform, None)

    def conflicts(self) -> Iterator[Mistake]:
        yield from super().conflicts()
        demo = self.training.demo if self.training else None
        yield from demo_conflicts(self.model.conditioning, (demo and demo.demo_cond) or [])
