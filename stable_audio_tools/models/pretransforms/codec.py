"""Pretrained codecs: encoder, residual codebooks and decoder, loaded from a hub or a folder by ``transformers``, and left as they are."""

from __future__ import annotations

import logging
from typing import Any

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from stable_audio_tools.errors import AudioError, CheckpointError, ConfigError
from stable_audio_tools.models.layers.hub import Source, fetch
from stable_audio_tools.models.pretransforms.base import Pretransform

logger = logging.getLogger(__name__)


class CodecPretransform(Pretransform):
    """Latents of a pretrained codec (DAC or EnCodec), divided by ``scale``; T is padded with zeros to whole frames.

    The weights are saved under ``model.``, by the names of ``transformers``, in float32.

    Args:
        name: Hugging Face id, or a local folder.
        part: The registered name, for messages.
        key: The config key that ``name`` comes from, for messages.
        sample_rate: Of the model around it, in Hz.
        scale: Latents are divided by it when encoding, multiplied when decoding.
        quantize_on_decode: Encode to what is not quantised yet, and quantise when decoding; otherwise quantise when encoding.
        num_quantizers: Codebooks K that are used; None is all.

    Raises:
        CheckpointError: If there is no such codec.
        ConfigError: If it has fewer codebooks, or cannot be used here.
    """

    def __init__(
        self, name: str, *, part: str, key: str, sample_rate: int, scale: float, quantize_on_decode: bool, num_quantizers: int | None = None
    ) -> None:
        model = _load(name, part, key)
        config = model.config
        self.is_dac = config.model_type == "dac"
        io_channels = 1 if self.is_dac else config.audio_channels
        codebooks = config.n_codebooks if self.is_dac else config.num_quantizers
        super().__init__(enable_grad=False, io_channels=io_channels, is_discrete=True)
        if num_quantizers is not None and not 1 <= num_quantizers <= codebooks:
            raise ConfigError(f"pretransform {part!r}: num_quantizers must be from 1 to {codebooks} for {name!r}, got {num_quantizers}")
        if not self.is_dac and config.normalize:
            raise ConfigError(
                f"pretransform {part!r}: {name!r} normalises the loudness of every chunk, of which latents say nothing; use a codec that "
                "does not, such as 'facebook/encodec_32khz'"
            )
        if config.sampling_rate != sample_rate:
            logger.warning(
                "pretransform %r: %r was trained on %d Hz, but the model has %d Hz", part, name, config.sampling_rate, sample_rate
            )
        self.model: Any = model.requires_grad_(False).eval()
        self.part = part
        self.sample_rate: int = config.sampling_rate
        self.downsampling_ratio = config.hop_length
        self.encoded_channels = config.hidden_size
        self.num_quantizers: int = num_quantizers if num_quantizers is not None else codebooks
        self.codebook_size: int = config.codebook_size
        self.scale = scale
        self.quantize_on_decode = quantize_on_decode

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

    def to_codes(self, latents: Tensor) -> Tensor:
        """Latents (B, D, L) -> tokens (B, K, L)."""
        quantizer = self.model.quantizer
        tokens = quantizer(latents)[1] if self.is_dac else rearrange(quantizer.encode(latents), "k b l -> b k l")
        return tokens[:, : self.num_quantizers]  # each codebook knows what those before it leave over, and nothing of those after it

    def from_codes(self, tokens: Tensor) -> Tensor:
        """Tokens (B, K, L) -> latents (B, D, L)."""
        quantizer = self.model.quantizer
        return quantizer.from_codes(tokens)[0] if self.is_dac else quantizer.decode(rearrange(tokens, "b k l -> k b l"))

    def _embed(self, x: Tensor) -> Tensor:
        if x.shape[1] != self.io_channels:
            raise AudioError(f"pretransform {self.part!r} takes audio of {self.io_channels} channel(s), got {x.shape[1]}")
        return self.model.encoder(F.pad(x, (0, -x.shape[-1] % self.downsampling_ratio)))  # (B, D, L)

    def _synthesise(self, latents: Tensor) -> Tensor:
        audio = self.model.decoder(latents)
        return F.pad(audio, (0, latents.shape[-1] * self.downsampling_ratio - audio.shape[-1]))  # odd strides lose a few samples


def _load(name: str, part: str, key: str) -> Any:
    from transformers import AutoConfig, DacModel, EncodecModel

    loaders: dict[str, Any] = {"dac": DacModel, "encodec": EncodecModel}
    source, what = Source.given(**{key: name}), f"pretransform {part!r}: codec"
    found = fetch(AutoConfig, source, what=what).model_type
    if found not in loaders:
        raise CheckpointError(f"{what} {source}: holds a {found!r} model, but must hold one of {', '.join(loaders)}")
    return fetch(loaders[found], source, what=what).float()
