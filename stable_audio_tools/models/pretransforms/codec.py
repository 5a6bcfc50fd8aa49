"""What pretrained codecs have in common: encoder, residual codebooks and decoder, loaded from a hub or a folder and left as they are."""

from __future__ import annotations

import logging
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from stable_audio_tools.errors import AudioError, CheckpointError
from stable_audio_tools.models.pretransforms.base import Pretransform

logger = logging.getLogger(__name__)


class CodecPretransform(Pretransform):
    """Latents of a pretrained codec, divided by ``scale``; T is padded with zeros to whole frames. Subclasses say how it is called.

    Args:
        model: The codec; its weights are saved under ``model.``.
        name: What it is called in messages.
        rate: Its sample rate, in Hz.
        sample_rate: Of the model around it, in Hz.
        ratio: Samples per frame.
        width: Channels of its latents.
        io_channels: Its audio channels.
        num_quantizers: Codebooks K.
        codebook_size: Entries of each.
        scale: Latents are divided by it when encoding, multiplied when decoding.
        quantize_on_decode: Encode to what is not quantised yet, and quantise when decoding; otherwise quantise when encoding.
    """

    def __init__(
        self,
        model: Any,
        *,
        name: str,
        rate: int,
        sample_rate: int,
        ratio: int,
        width: int,
        io_channels: int,
        num_quantizers: int,
        codebook_size: int,
        scale: float,
        quantize_on_decode: bool,
    ) -> None:
        super().__init__(enable_grad=False, io_channels=io_channels, is_discrete=True)
        if rate != sample_rate:
            logger.warning(
                "%s: was trained on %d Hz, and hears all else transposed; the model around it has %d Hz", name, rate, sample_rate
            )
        self.model: Any = model.requires_grad_(False).eval()
        self.name = name
        self.sample_rate = rate
        self.downsampling_ratio = ratio
        self.encoded_channels = width
        self.num_quantizers = num_quantizers
        self.codebook_size = codebook_size
        self.scale = scale
        self.quantize_on_decode = quantize_on_decode

    def to_codes(self, latents: Tensor) -> Tensor:
        """Latents (B, D, L) -> tokens (B, K, L)."""
        raise NotImplementedError

    def from_codes(self, tokens: Tensor) -> Tensor:
        """Tokens (B, K, L) -> latents (B, D, L)."""
        raise NotImplementedError

    def encode(self, x: Tensor, **kwargs: Any) -> Tensor:
        latents = self._embed(x)
        if not self.quantize_on_decode:
            latents = self.from_codes(self.to_codes(latents))
        return latents / self.scale

    def decode(self, z: Tensor, **kwargs: Any) -> Tensor:
        latents = z * self.scale
        if self.quantize_on_decode:
            latents = self.from_codes(self.to_codes(latents))
        return self._synthesise(latents)

    def tokenize(self, x: Tensor) -> Tensor:
        return self.to_codes(self._embed(x))

    def decode_tokens(self, tokens: Tensor) -> Tensor:
        return self._synthesise(self.from_codes(tokens))

    def _embed(self, x: Tensor) -> Tensor:
        if x.shape[1] != self.io_channels:
            raise AudioError(f"{self.name} takes audio of {self.io_channels} channel(s), got {x.shape[1]}")
        return self.model.encoder(F.pad(x, (0, -x.shape[-1] % self.downsampling_ratio)))  # (B, D, L)

    def _synthesise(self, latents: Tensor) -> Tensor:
        audio = self.model.decoder(latents)
        return F.pad(audio, (0, latents.shape[-1] * self.downsampling_ratio - audio.shape[-1]))  # odd strides lose a few samples


def load_codec(loader: Any, name: str, *, what: str, key: str) -> Any:
    """A codec of ``transformers``, in float32.

    Args:
        loader: Its class.
        name: Hugging Face id, or a local folder.
        what: What to call it in messages.
        key: The config key that names it.

    Raises:
        CheckpointError: If it is in neither place, or is something else.
    """
    from transformers import AutoConfig
    from transformers.utils import logging as transformers_logging

    show_progress = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # a bar for reading a local file says nothing
    try:
        config = AutoConfig.from_pretrained(name)
        if not isinstance(config, loader.config_class):
            raise CheckpointError(f"{what} {name!r}: holds a {config.model_type!r} model, but must be a {loader.config_class.model_type!r}")
        return loader.from_pretrained(name).float()
    except (OSError, KeyError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        reason = str(error).strip().split("\n")[0]
        raise CheckpointError(
            f"{what} {name!r}: it is neither a local folder nor in the local cache, and could not be downloaded ({reason}); check the name "
            f"and the network, or set {key} to a folder that holds it"
        ) from error
    finally:
        if show_progress:
            transformers_logging.enable_progress_bar()
