"""The parts of models as configs name them, and what follows from their numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, cast

from stable_audio_tools.config.base import Component, PositiveFloat
from stable_audio_tools.registry import Mistake


class EncoderBlock(Component):
    """Audio to latents."""

    family: ClassVar[str] = "ENCODERS"
    requires_grad: bool = True


class DecoderBlock(Component):
    """Latents to audio."""

    family: ClassVar[str] = "DECODERS"
    requires_grad: bool = True
    soft_clip: bool = False


class BottleneckBlock(Component):
    """What happens to the encoder's output before it is called a latent."""

    family: ClassVar[str] = "BOTTLENECKS"
    requires_grad: bool = True


class PretransformBlock(Component):
    """A fixed (or, with ``enable_grad``, trained) transform between audio and what the model works on."""

    family: ClassVar[str] = "PRETRANSFORMS"
    enable_grad: bool = False
    scale: PositiveFloat = 1.0
    model_half: bool = False
    iterate_batch: bool = False
    chunked: bool = False

    def ratio(self) -> int | None:
        """Samples per step of its output, if it can be told from the config."""
        ratio, divisor_key = self._product(self.fact("ratio_key")), self.fact("ratio_divisor_key")
        if ratio is None or divisor_key is None:
            return ratio
        divisor = self.value(divisor_key)
        return ratio // divisor if divisor and ratio % divisor == 0 else None

    def width(self) -> int | None:
        """Channels of its output, if they can be told from the config."""
        return self._product(self.fact("width_key"))

    def audio_channels(self) -> int | None:
        """Channels of the audio that it takes and gives, if they can be told and are the same."""
        if self.fact("trunk"):
            is_same = self.config.get("in_channels") is None and self.config.get("out_channels") is None
            channels = self.config.get(self.fact("audio_key")) if is_same else None
        else:
            channels = self.value(self.fact("audio_key") or "")
        return channels if type(channels) is int else None

    def width_source(self) -> str:
        """The keys that `width` follows from, for messages."""
        octaves = self.fact("octaves_key")
        return " * ".join([*_listed(self.fact("width_key")), *([f"2^{octaves}"] if octaves else [])])

    def _product(self, keys: str | Sequence[str] | None) -> int | None:
        get = self.config.get if self.fact("trunk") else self.value
        values: list[Any] = [get(key) for key in _listed(keys)]
        octaves_key = self.fact("octaves_key")
        if octaves_key is not None:
            octaves = get(octaves_key)
            values.append(2**octaves if type(octaves) is int and 0 < octaves < 32 else None)
        return math.prod(values) if values and all(type(value) is int and value > 0 for value in values) else None


def ratio_of(pretransform: PretransformBlock | None) -> int | None:
    """Samples per step of what the model works on, if it can be told; 1 without a pretransform."""
    return 1 if pretransform is None else pretransform.ratio()


def product_of(*numbers: int | None) -> int | None:
    """Their product; None if one is not known."""
    product = 1
    for number in numbers:
        if number is None:
            return None
        product *= number
    return product


def audio_of(pretransform: PretransformBlock | None, io_channels: int | None) -> tuple[int | None, str]:
    """Audio channels of a model, and where they stand."""
    if pretransform is None:
        return io_channels, "model.io_channels, without a pretransform"
    return pretransform.audio_channels(), f"model.pretransform.config.{pretransform.fact('audio_key')}"


def latent_conflicts(
    encoder: EncoderBlock | None, decoder: DecoderBlock | None, bottleneck: BottleneckBlock | None, latent_dim: int
) -> Iterator[Mistake]:
    """Where the widths of encoder, bottleneck and decoder do not follow from ``latent_dim``."""
    is_known = bottleneck is None or bottleneck.is_registered
    factor = (bottleneck.fact("encoder_width") if bottleneck else None) or 1
    key = (encoder.fact("width_key") if encoder else None) or "latent_dim"
    width = encoder.value(key) if is_known and encoder else None
    if width is not None and width != factor * latent_dim:
        why = (
            f"{factor} x latent_dim, since a {bottleneck.type!r} bottleneck needs mean and scale"
            if bottleneck and factor == 2
            else "latent_dim"
        )
        yield Mistake(("encoder", "config", key), f"is {width}, but must be {factor * latent_dim} ({why})", "conflict")
    added = added_channels(bottleneck)
    key = (decoder.fact("width_key") if decoder else None) or "latent_dim"
    width = decoder.value(key) if is_known and decoder else None
    if width is not None and width != latent_dim + added:
        why = f"latent_dim + noise_augment_dim {added}" if added else "latent_dim"
        yield Mistake(("decoder", "config", key), f"is {width}, but must be {latent_dim + added} ({why})", "conflict")
    key = bottleneck.fact("width_key") if bottleneck else None
    width = bottleneck.value(key) if bottleneck and key else None
    if key and width is not None and width != latent_dim:
        yield Mistake(("bottleneck", "config", key), f"is {width}, but must be {latent_dim} (latent_dim)", "conflict")


def denoised_conflicts(pretransform: PretransformBlock | None, diffusion: Component, io_channels: int) -> Iterator[Mistake]:
    """Where pretransform and network do not work on ``io_channels`` channels."""
    width = pretransform.width() if pretransform else None
    if pretransform is not None and width is not None and width != io_channels:
        yield Mistake(
            ("io_channels",),
            f"is {io_channels}, but the pretransform gives {width} channels (its {pretransform.width_source()})",
            "conflict",
        )
    key, channels = first_value(diffusion, "io_channels", "in_channels") or ("", None)
    if channels is not None and channels != io_channels:
        yield Mistake(("diffusion", "config", key), f"is {channels}, but model.io_channels is {io_channels}", "conflict")


def added_channels(bottleneck: BottleneckBlock | None) -> int:
    """Channels that a bottleneck adds when decoding."""
    return (bottleneck.value("noise_augment_dim") if bottleneck else None) or 0


def backbone_multiple(block: Component) -> int | None:
    """Lengths that a backbone takes are multiples of this, if it can be told."""
    if not block.is_registered:
        return None
    levels = block.value(block.fact("levels_key") or "")
    multiple = 1
    for key in block.fact("multiple_keys") or ():
        value = block.value(key)
        numbers = cast("list[Any]", value[: levels - 1] if levels else value) if isinstance(value, (list, tuple)) else [value]
        if not all(type(number) is int and number > 0 for number in numbers):
            return None
        multiple *= math.prod(numbers)
    return product_of(multiple, block.value("stft_hop_length")) if block.value("use_stft") else multiple


def first_value(block: Component, *keys: str) -> tuple[str, Any] | None:
    """The first of several keys that a part has a value for, and the value."""
    return next(((key, value) for key in keys if (value := block.value(key)) is not None), None)


def strides_of(block: Component) -> tuple[list[str], list[int]]:
    """The parameters that multiply to a block's ratio, and their values."""
    names: list[str] = []
    values: list[int] = []
    for key in ("hop_length", "strides", "ratios", "rates"):
        value = block.value(key)
        if value is not None:
            names.append(key)
            values += cast("list[int]", value) if isinstance(value, (list, tuple)) else [value]
    return names, values


def _listed(keys: str | Sequence[str] | None) -> list[str]:
    return [keys] if isinstance(keys, str) else list(keys or ())
