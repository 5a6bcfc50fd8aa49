"""Model configs of autoencoders."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal, cast

from stable_audio_tools.config.base import PositiveInt, Strict
from stable_audio_tools.config.model.base import ModelConfig
from stable_audio_tools.config.model.parts import (
    BottleneckBlock,
    DecoderBlock,
    EncoderBlock,
    PretransformBlock,
    latent_conflicts,
    strides_of,
)
from stable_audio_tools.config.training.autoencoder import AutoencoderTraining
from stable_audio_tools.registry import Mistake


class AutoencoderModel(Strict):
    """``model`` of an autoencoder; also the ``config`` of an ``autoencoder`` pretransform."""

    encoder: EncoderBlock
    decoder: DecoderBlock
    bottleneck: BottleneckBlock | None = None
    pretransform: PretransformBlock | None = None
    latent_dim: PositiveInt
    downsampling_ratio: PositiveInt
    io_channels: PositiveInt
    in_channels: PositiveInt | None = None
    out_channels: PositiveInt | None = None

    def conflicts(self) -> Iterator[Mistake]:
        yield from self._ratio_conflicts()
        yield from self._order_conflicts()
        yield from self._width_conflicts()

    def _ratio_conflicts(self) -> Iterator[Mistake]:
        inner = 1 if self.pretransform is None else self.pretransform.ratio()
        if inner is None:
            return
        found: dict[int, str] = {}  # ratio -> what it follows from; encoder and decoder that agree are one mistake
        for name, block in (("encoder", self.encoder), ("decoder", self.decoder)):
            keys, strides = strides_of(block)
            if strides:
                ratio = math.prod(strides) * inner
                through = f" times the pretransform's {inner} = {ratio}" if inner != 1 else ""
                found.setdefault(ratio, f"{name}.config.{' and '.join(keys)} {strides} multiply to {math.prod(strides)}{through}")
        for ratio, text in found.items():
            if ratio != self.downsampling_ratio:
                yield Mistake(("downsampling_ratio",), f"is {self.downsampling_ratio}, but {text}", "conflict")

    def _order_conflicts(self) -> Iterator[Mistake]:
        """A decoder that does not undo the encoder's strides last first. Published configs have this; lengths are right all the same."""
        (keys, down), (up_keys, up) = strides_of(self.encoder), strides_of(self.decoder)
        if self.encoder.type != self.decoder.type or not down or math.prod(down) != math.prod(up):
            return
        expected = down[::-1] if self.decoder.fact("strides_as_applied") else down
        if up != expected:
            message = f"warning: {up} is not the mirror image of the encoder's {' and '.join(keys)} {down}, which is {expected} here"
            yield Mistake(("decoder", "config", up_keys[-1]), message, "warning")

    def _width_conflicts(self) -> Iterator[Mistake]:
        yield from latent_conflicts(self.encoder, self.decoder, self.bottleneck, self.latent_dim)
        if self.pretransform is None:
            for block, name, key, wanted in (
                (self.encoder, "encoder", "in_channels", self.in_channels or self.io_channels),
                (self.decoder, "decoder", "out_channels", self.out_channels or self.io_channels),
            ):
                key = block.fact("channels_key") or key
                channels = block.value(key)
                if channels is not None and channels != wanted:
                    yield Mistake((name, "config", key), f"is {channels}, but the model has {wanted} (io_channels)", "conflict")


class AutoencoderConfig(ModelConfig):
    """An audio autoencoder."""

    model_type: Literal["autoencoder"]  # pyright: ignore[reportIncompatibleVariableOverride]  # frozen, so narrowing is safe
    model: AutoencoderModel
    training: AutoencoderTraining | None = None

    def input_multiple(self) -> int | None:
        return self.model.downsampling_ratio

    def audio_source(self) -> tuple[int | None, str]:
        model = self.model
        is_same = model.in_channels is None and model.out_channels is None
        return (model.io_channels if is_same else None), "model.io_channels"

    def conflicts(self) -> Iterator[Mistake]:
        yield from super().conflicts()
        losses = self.training.loss_configs if self.training else None
        if losses is None:
            return
        sizes: Any = losses.spectral.config.get("fft_sizes", ())
        numbers = cast("list[Any]", sizes) if isinstance(sizes, (list, tuple)) else []
        largest = max((size for size in numbers if type(size) is int), default=0)
        if self.sample_size and self.sample_size <= largest // 2:
            text = f"is {self.sample_size}, but the spectral loss needs more than half of its largest fft_sizes, {largest}"
            yield Mistake(("sample_size",), text, "conflict")
        bottleneck = self.model.bottleneck
        if losses.bottleneck is not None and (bottleneck is None or bottleneck.is_registered):
            known = (bottleneck.fact("losses") if bottleneck else None) or ()
            for name in losses.bottleneck.weights.model_fields_set:
                if name not in known:
                    whose = f"bottleneck {bottleneck.type!r}" if bottleneck else "the model, without a bottleneck,"
                    text = f"warning: has no effect: {whose} has {'no such loss; it has: ' + ', '.join(known) if known else 'no loss'}"
                    yield Mistake(("training", "loss_configs", "bottleneck", "weights", name), text, "warning")
