"""Model configs of diffusion autoencoders."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, ClassVar, Literal, cast

from stable_audio_tools.config.base import Component, PositiveInt, Strict
from stable_audio_tools.config.model.base import ModelConfig
from stable_audio_tools.config.model.parts import (
    BottleneckBlock,
    DecoderBlock,
    EncoderBlock,
    PretransformBlock,
    added_channels,
    audio_of,
    backbone_multiple,
    denoised_conflicts,
    latent_conflicts,
    product_of,
    ratio_of,
    strides_of,
)
from stable_audio_tools.config.training.diffusion import DiffusionAutoencoderTraining
from stable_audio_tools.registry import Mistake


class DenoiserBlock(Component):
    """The network that turns noise into audio in a diffusion autoencoder."""

    family: ClassVar[str] = "BACKBONES"


class DiffusionAutoencoderModel(Strict):
    """``model`` of a diffusion autoencoder. ``io_channels`` and ``downsampling_ratio`` are counted behind the pretransform."""

    encoder: EncoderBlock | None = None
    decoder: DecoderBlock | None = None
    bottleneck: BottleneckBlock | None = None
    pretransform: PretransformBlock | None = None
    diffusion: DenoiserBlock
    latent_dim: PositiveInt
    downsampling_ratio: PositiveInt
    io_channels: PositiveInt

    def conflicts(self) -> Iterator[Mistake]:
        yield from latent_conflicts(self.encoder, self.decoder, self.bottleneck, self.latent_dim)
        yield from denoised_conflicts(self.pretransform, self.diffusion, self.io_channels)
        keys, strides = strides_of(self.encoder) if self.encoder else ([], [])
        ratio = math.prod(strides)
        if strides and ratio != self.downsampling_ratio:
            text = f"is {self.downsampling_ratio}, but encoder.config.{' and '.join(keys)} {strides} multiply to {ratio}"
            yield Mistake(("downsampling_ratio",), text, "conflict")
        if self.encoder is None:
            for name, wanted, why in (("latent_dim", self.io_channels, "io_channels"), ("downsampling_ratio", 1, "1")):
                if getattr(self, name) != wanted:
                    yield Mistake((name,), f"is {getattr(self, name)}, but must be {why} without an encoder", "conflict")
        else:
            channels = self.encoder.value("in_channels")
            if channels is not None and channels != self.io_channels:
                text = f"is {channels}, but the model has {self.io_channels} (io_channels)"
                yield Mistake(("encoder", "config", "in_channels"), text, "conflict")
        yield from self._concat_conflicts()

    def _concat_conflicts(self) -> Iterator[Mistake]:
        key = self.diffusion.fact("concat_key")
        value: Any = self.diffusion.value(key or "")
        wanted: Any = next(iter(cast("list[Any]", value)), 0) if isinstance(value, (list, tuple)) else value
        given, source = self.latent_dim + added_channels(self.bottleneck), "latent_dim"
        if self.decoder is not None:
            given, source = self.decoder.value("out_channels"), "decoder.config.out_channels"
        if wanted is not None and given is not None and wanted != given:
            yield Mistake(("diffusion", "config", key), f"is {value}, but {given} channels are concatenated ({source})", "conflict")

    def input_multiple(self) -> int | None:
        """Audio lengths that the model takes are multiples of this, in samples."""
        return product_of(ratio_of(self.pretransform), self.downsampling_ratio, backbone_multiple(self.diffusion))


class DiffusionAutoencoderConfig(ModelConfig):
    """An autoencoder that decodes by diffusion."""

    model_type: Literal["diffusion_autoencoder"]  # pyright: ignore[reportIncompatibleVariableOverride]
    model: DiffusionAutoencoderModel
    training: DiffusionAutoencoderTraining | None = None

    def input_multiple(self) -> int | None:
        return self.model.input_multiple()

    def audio_source(self) -> tuple[int | None, str]:
        return audio_of(self.model.pretransform, self.model.io_channels)
