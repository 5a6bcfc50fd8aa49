"""Model configs of inpainting models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from stable_audio_tools.config.model.conditioning import INJECTED_IDS
from stable_audio_tools.config.model.diffusion_cond import DiffusionCondConfig, DiffusionCondModel
from stable_audio_tools.config.training.diffusion import DiffusionCondInpaintTraining
from stable_audio_tools.registry import Mistake


class DiffusionCondInpaintModel(DiffusionCondModel):
    """``model`` of an inpainting model: it sees what to keep, as conditions ``inpaint_mask`` and ``inpaint_masked_input``."""

    def conflicts(self) -> Iterator[Mistake]:
        yield from super().conflicts()
        yield from self._inpaint_conflicts()

    def _inpaint_conflicts(self) -> Iterator[Mistake]:
        diffusion = self.diffusion
        widths: dict[str, int] = {"inpaint_mask": 1, "inpaint_masked_input": self.io_channels}
        for ids, key in ((diffusion.input_concat_ids, "input_concat_dim"), (diffusion.local_add_cond_ids, "local_add_cond_dim")):
            given: Any = diffusion.value(key)
            if ids and type(given) is int and all(name in widths for name in ids) and given != sum(widths[name] for name in ids):
                total = " + ".join(str(widths[name]) for name in ids)
                yield Mistake(("diffusion", "config", key), f"is {given}, but {', '.join(ids)} have {total} channels", "conflict")
        missing = [name for name in INJECTED_IDS if name not in [*diffusion.input_concat_ids, *diffusion.local_add_cond_ids]]
        if missing:
            text = f"warning: {' and '.join(missing)} are in neither input_concat_ids nor local_add_cond_ids: the model cannot see them"
            yield Mistake(("diffusion",), text, "warning")


class DiffusionCondInpaintConfig(DiffusionCondConfig):
    """A conditional diffusion model that fills gaps."""

    model_type: Literal["diffusion_cond_inpaint"]  # pyright: ignore[reportIncompatibleVariableOverride]
    model: DiffusionCondInpaintModel  # pyright: ignore[reportIncompatibleVariableOverride]
    training: DiffusionCondInpaintTraining | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
