"""What conditioners on encoded audio have in common: the pretransform that encodes it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from stable_audio_tools.audio import set_audio_channels
from stable_audio_tools.checkpoint import load_pretransform_weights
from stable_audio_tools.config.model import PretransformBlock
from stable_audio_tools.errors import ConfigError, DataError
from stable_audio_tools.models.conditioners.base import Conditioner
from stable_audio_tools.models.conditioners.pretrained import frozen
from stable_audio_tools.models.layers.parameters import is_without_weights, without_weights
from stable_audio_tools.models.pretransforms.base import Pretransform
from stable_audio_tools.models.pretransforms.build import build_pretransform

logger = logging.getLogger(__name__)


class PretransformSource(NamedTuple):
    """What a pretransform is made of; hashable.

    Attributes:
        config: Its block, as JSON.
        sample_rate: In Hz.
        ckpt_path: Weights of its autoencoder; None if it has none.
    """

    config: str
    sample_rate: int
    ckpt_path: str | None


class EncodedAudioConditioner(Conditioner):
    """Encodes audio with a pretransform: the model's own, or another one.

    Another one is frozen, loaded on first use, shared by all models of the process and not part of the state dict, unless it is saved.

    Args:
        kind: Name of the conditioner, for messages.
        output_dim: Channels of the result.
        sample_rate: Rate of the audio, in Hz.
        pretransform_config: The pretransform, as in a model config.
        pretransform_ckpt_path: Weights of its autoencoder.
        use_model_pretransform: Use the pretransform of the model instead.
        save_pretransform: Make the pretransform a part of the model, named ``pretransform``.
        model_pretransform: The pretransform of the model; None if it has none.
    """

    def __init__(
        self,
        kind: str,
        output_dim: int,
        sample_rate: int,
        pretransform_config: PretransformBlock | None,
        pretransform_ckpt_path: str | None,
        use_model_pretransform: bool,
        save_pretransform: bool,
        model_pretransform: Pretransform | None,
    ) -> None:
        source, pretransform = None, model_pretransform
        if use_model_pretransform:
            given = {"pretransform_config": pretransform_config, "pretransform_ckpt_path": pretransform_ckpt_path}
            for key in (key for key, value in given.items() if value is not None):
                logger.warning("conditioner %r: %s is ignored, since use_model_pretransform is true", kind, key)
            if pretransform is None:
                raise ConfigError(f"conditioner {kind!r}: use_model_pretransform is true, but the model has no pretransform")
        else:
            if pretransform_config is None:
                raise ConfigError(f"conditioner {kind!r}: needs pretransform_config, or use_model_pretransform: true")
            source = PretransformSource(pretransform_config.model_dump_json(exclude_unset=True), sample_rate, pretransform_ckpt_path)
            if save_pretransform:
                pretransform = load_pretransform(source)
            else:
                with without_weights():  # what it looks like; the real one is shared
                    pretransform = load_pretransform(source)
        assert isinstance(pretransform, Pretransform)
        super().__init__(pretransform.encoded_channels, output_dim)
        self.kind = kind
        if save_pretransform:
            self.pretransform = pretransform
        self._unregistered = [pretransform]
        self._source = None if save_pretransform else source

    def pretransform_on(self, device: torch.device) -> Pretransform:
        """The pretransform, with weights, on ``device``."""
        if self._source is None:
            found = self._unregistered[0].to(device)
        else:
            found = frozen(load_pretransform, self._source, device, None)
        assert isinstance(found, Pretransform)
        return found

    def encode(self, audio: Tensor, device: torch.device) -> Tensor:
        """Audio (B, C, T) of any number of channels to latents (B, W, L)."""
        pretransform = self.pretransform_on(device)
        audio = set_audio_channels(audio.to(device), pretransform.io_channels)
        with torch.set_grad_enabled(pretransform.enable_grad and torch.is_grad_enabled()):
            return pretransform.encode(audio)

    def as_audio(self, value: Any) -> Tensor:
        """A metadata value as (C, T).

        Raises:
            DataError: If it is no tensor of one clip.
        """
        if isinstance(value, Tensor) and value.dim() == 3 and len(value) == 1:
            value = value[0]
        if not isinstance(value, Tensor) or value.dim() != 2:
            given = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)[:60]
            raise DataError(f"conditioner {self.kind!r}: expected a tensor (channels, length) per item, got {given}")
        return value


def stack(clips: Sequence[Tensor], kind: str) -> Tensor:
    """Clips of one shape as a batch.

    Raises:
        DataError: If their shapes differ.
    """
    shapes = {tuple(clip.shape) for clip in clips}
    if len(shapes) != 1:
        raise DataError(f"conditioner {kind!r}: the items of a batch must have one shape, got {', '.join(map(str, sorted(shapes)))}")
    return torch.stack(list(clips))


def load_pretransform(source: PretransformSource) -> nn.Module:
    """A new copy of a pretransform, in eval mode and frozen."""
    block = PretransformBlock.model_validate_json(source.config)
    pretransform = build_pretransform(block, source.sample_rate)
    if is_without_weights():
        return pretransform
    if source.ckpt_path is not None:
        load_pretransform_weights(pretransform, source.ckpt_path, flag="pretransform_ckpt_path")
    elif next(pretransform.parameters(), None) is not None:
        logger.warning("pretransform %r of a conditioner starts with random weights: it has no pretransform_ckpt_path", block.type)
    return pretransform.requires_grad_(False)


__all__ = ["EncodedAudioConditioner", "load_pretransform", "stack"]
