"""What every model config has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from stable_audio_tools.config.base import PositiveInt, Strict
from stable_audio_tools.config.training.adapters import LorawSection
from stable_audio_tools.registry import Mistake
from stable_audio_tools.registry.schema import Location


class ModelConfig(Strict):
    """A whole model config. Subclasses fix ``model_type``, ``model`` and ``training``."""

    model_type: str
    sample_rate: PositiveInt
    sample_size: PositiveInt | None = None
    audio_channels: PositiveInt = 2
    model: Any
    training: Any = None
    lora: LorawSection | None = None

    def input_multiple(self) -> int | None:
        """Audio lengths that the model takes are multiples of this, in samples, if it can be told."""
        return None

    def audio_source(self) -> tuple[int | None, str]:
        """Channels of the audio that the model works on, if they can be told, and the key that says so."""
        return None, ""

    def conflicts(self) -> Iterator[Mistake]:
        yield from self._size_conflicts()
        if self.lora is not None and self.training is not None:
            if self.model_type.endswith("autoencoder"):
                text = f"LoRAW trains no model of type {self.model_type!r}; write training.adapter instead"
                yield Mistake(("lora",), text, "conflict")
            elif self.training.adapter is not None or self.training.lora_config is not None:
                yield Mistake(("lora",), "training says, too, which adapter is trained; leave one of them out", "conflict")
        channels, source = self.audio_source()
        is_given = "audio_channels" in self.model_fields_set
        if channels is not None and channels != self.audio_channels and (is_given or self.training is not None):
            given = f"is {self.audio_channels}" if is_given else f"is not given, so {self.audio_channels}"
            text = f"{given}, but the model works on audio of {channels} channels ({source})"
            yield self._in_training(("audio_channels",), text)

    def is_length_fixed(self) -> bool:
        """Whether audio of a length between two steps stops training, instead of being cut or padded."""
        return False

    def _size_conflicts(self) -> Iterator[Mistake]:
        multiple = self.input_multiple()
        if not multiple or not self.sample_size or not self.sample_size % multiple:
            return
        if self.sample_size < multiple:
            text = f"is {self.sample_size} samples, which is less than one step of the model, {multiple}"
            yield self._in_training(("sample_size",), text)
            return
        rounded = round(self.sample_size / multiple) * multiple
        text = f"{self.sample_size} is not a multiple of {multiple} samples, the model's step; {rounded} is"
        if self.is_length_fixed():
            yield self._in_training(("sample_size",), text)
        else:
            yield Mistake(("sample_size",), f"warning: {text}", "warning")

    def _in_training(self, location: Location, text: str) -> Mistake:
        """What only training trips over: a mistake in a config that has ``training``; others may still generate."""
        return Mistake(location, f"warning: {text}", "warning") if self.training is None else Mistake(location, text, "conflict")
