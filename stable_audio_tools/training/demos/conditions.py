"""What demos show besides what is made: conditions that are audio themselves, alone and mixed with what was made for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stable_audio_tools.audio import set_audio_channels
from stable_audio_tools.config.training.diffusion import CondDisplay, CondDisplayOptions, DiffusionCondDemo
from stable_audio_tools.errors import DataError

Items = Sequence[Mapping[str, Any]]
AUDIO_COND = CondDisplay(id="audio", type="audio", config=CondDisplayOptions())


class Shown(NamedTuple):
    """A condition of a demo, as audio.

    Attributes:
        name: Of its files, but for what they say about the guidance scale.
        display: How it is to be shown: ``audio`` once before anything is made, ``audio_dict`` (stems, added up) at every scale.
        clips: (C, T) for each item.
    """

    name: str
    display: CondDisplay
    clips: list[Tensor]

    def alone(self) -> dict[str, Tensor]:
        """What to write before anything is made: clips one after the other, (C, T), by the name of the file."""
        return {self.name: joined(self.clips)} if self.display.type == "audio" else {}

    def with_made(self, made: Tensor, scale: float) -> dict[str, Tensor]:
        """What to write beside what was made for the items at a guidance scale, (B, C, T)."""
        submix = {f"{self.name}_submix_cfg_{scale:g}": joined(self.clips)} if self.display.type == "audio_dict" else {}
        if not submix and not self.display.config.display_mix:
            return {}
        sums: list[Tensor] = []
        for clip, generated in zip(self.clips, made, strict=True):
            length = min(clip.shape[-1], generated.shape[-1])
            same = set_audio_channels(clip.to(generated)[None], len(generated))[0]
            sums.append(same[:, :length] + generated[:, :length])
        return {**submix, f"{self.name}_mix_cfg_{scale:g}": joined(sums)}


def shown_conditions(demo: DiffusionCondDemo, items: Items, pretransform: Any) -> list[Shown]:
    """The conditions that ``display_audio_cond`` and ``cond_display_configs`` ask for.

    Args:
        demo: The ``training.demo`` section.
        items: Conditions of the demo's items.
        pretransform: What makes audio of latents; None if the model has none.

    Raises:
        DataError: If an item has no such condition, or it is no audio.
    """
    wanted = [("demo_audio_cond", AUDIO_COND)] if demo.display_audio_cond else []
    wanted += [(f"demo_{display.id}", display) for display in demo.cond_display_configs or []]
    return [
        Shown(name, display, [_clip(item.get(display.id), display, pretransform, f"demo item {index}: {display.id!r}")
                              for index, item in enumerate(items)])
        for name, display in wanted
    ]  # fmt: skip


def joined(clips: Sequence[Tensor]) -> Tensor:
    """Clips (C, T) one after the other."""
    return torch.cat([clip.float().cpu() for clip in clips], dim=-1)


def _clip(value: Any, display: CondDisplay, pretransform: Any, where: str) -> Tensor:
    """A condition as one clip (C, T)."""
    if display.type == "audio":
        return _audio(value, display, pretransform, where)
    if not isinstance(value, Mapping) or not value:
        raise DataError(f"{where} is to be shown as 'audio_dict', but is no object from names to audio")
    clips = [_audio(part, display, pretransform, f"{where}: {name!r}") for name, part in value.items()]
    length = min(clip.shape[-1] for clip in clips)
    return torch.stack([clip[:, :length] for clip in clips]).sum(dim=0)


def _audio(value: Any, display: CondDisplay, pretransform: Any, where: str) -> Tensor:
    clip = value[0] if isinstance(value, Tensor) and value.dim() == 3 and len(value) == 1 else value
    if not isinstance(clip, Tensor) or clip.dim() != 2:
        given = f"has shape {tuple(clip.shape)}" if isinstance(clip, Tensor) else f"is {clip!r:.60}"
        raise DataError(f"{where} is to be shown as audio, a tensor (channels, length), but {given}")
    if not display.config.pre_encoded:
        return clip
    if pretransform is None:
        raise DataError(f"{where} is said to be pre_encoded, but the model has no pretransform to decode it with")
    weight = next(pretransform.parameters(), clip)
    latents = clip.to(weight.device)[None] / getattr(pretransform, "scale", 1.0)  # (1, D, L)
    return pretransform.decode(latents)[0]  # (C, T)
