"""AudioAutoencoder: encoder, bottleneck and decoder as one model of audio."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from fractions import Fraction
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stable_audio_tools.audio import resample, set_audio_channels
from stable_audio_tools.config.check import parse_model_config
from stable_audio_tools.config.model import AutoencoderConfig
from stable_audio_tools.errors import AudioError, ConfigError
from stable_audio_tools.families import DECODERS, ENCODERS, MODELS
from stable_audio_tools.models.autoencoders.chunking import map_chunks
from stable_audio_tools.models.bottlenecks.base import Bottleneck, DiscreteBottleneck
from stable_audio_tools.models.bottlenecks.build import build_bottleneck
from stable_audio_tools.models.layers.parameters import dtype_of
from stable_audio_tools.models.pretransforms.base import Pretransform
from stable_audio_tools.models.pretransforms.build import build_pretransform

ENCODE_OPTIONS = ("skip_pretransform", "iterate_batch")  # of `AudioAutoencoder.encode` itself


class AudioAutoencoder(nn.Module):
    """Audio (B, C, T) to latents (B, D, L) and back, with L = T / downsampling_ratio.

    Args:
        encoder: (B, C, T) -> (B, W, L); None passes audio through.
        decoder: (B, D, L) -> (B, C, T); None only in subclasses that decode otherwise.
        latent_dim: Channels D of the latents.
        downsampling_ratio: Audio samples per latent frame.
        sample_rate: In Hz.
        io_channels: Audio channels.
        bottleneck: Between encoder and decoder; None is the identity.
        pretransform: Applied to audio before the encoder, and inverted after the decoder.
        in_channels: Audio channels of the input, if they differ from ``io_channels``.
        out_channels: Audio channels of the output, if they differ from ``io_channels``.
        soft_clip: End decoding with tanh.
    """

    def __init__(
        self,
        encoder: nn.Module | None,
        decoder: nn.Module | None,
        latent_dim: int,
        downsampling_ratio: int,
        sample_rate: int,
        io_channels: int = 2,
        bottleneck: Bottleneck | None = None,
        pretransform: Pretransform | None = None,
        in_channels: int | None = None,
        out_channels: int | None = None,
        soft_clip: bool = False,
    ) -> None:
        super().__init__()
        self.downsampling_ratio = downsampling_ratio
        self.sample_rate = sample_rate
        self.latent_dim = latent_dim
        self.io_channels = io_channels
        self.in_channels = in_channels if in_channels is not None else io_channels
        self.out_channels = out_channels if out_channels is not None else io_channels
        self.min_length = self.samples_per_latent = downsampling_ratio
        self.encoder = encoder
        self.decoder = decoder
        self.bottleneck = bottleneck
        self.pretransform = pretransform
        self.soft_clip = soft_clip
        self.is_discrete = bottleneck is not None and bottleneck.is_discrete

    def encode(
        self,
        audio: Tensor,
        skip_bottleneck: bool = False,
        return_info: bool = False,
        skip_pretransform: bool = False,
        iterate_batch: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Encode a batch at the model's rate and channel count.

        Args:
            audio: (B, C, T); T should be a multiple of ``downsampling_ratio``.
            skip_bottleneck: Return the encoder's output.
            return_info: Also return a dict with ``pre_bottleneck_latents`` and what the bottleneck reports (losses, tokens).
            skip_pretransform: ``audio`` is already transformed.
            iterate_batch: One item at a time through transform and encoder, to save memory. The bottleneck sees the whole batch.
            **kwargs: For the encoder, if its ``forward`` names them; otherwise for the bottleneck.

        Returns:
            Latents (B, D, L), or (latents, info).

        Raises:
            AudioError: If the audio has another shape, or is too short for the network.
        """
        encoder_kwargs, kwargs = _split_kwargs(self.encoder, kwargs)
        try:
            latents = self._through_encoder(audio, skip_pretransform, iterate_batch, encoder_kwargs)  # (B, W, L)
        except (RuntimeError, ValueError) as error:
            self._explain(audio, skip_pretransform, error)
            raise
        latents, info = self._through_bottleneck(latents, skip_bottleneck, kwargs)
        return (latents, info) if return_info else latents

    def _through_encoder(self, audio: Tensor, skip_pretransform: bool, iterate_batch: bool, options: dict[str, Any]) -> Tensor:
        """(B, C, T) -> (B, W, L)."""
        if self.pretransform is not None and not skip_pretransform:
            with nullcontext() if self.pretransform.enable_grad else torch.no_grad():
                audio = _per_item(self.pretransform.encode, audio, iterate_batch)
        return audio if self.encoder is None else _per_item(partial(self.encoder, **options), audio, iterate_batch)

    def _explain(self, audio: Tensor, is_transformed: bool, error: Exception) -> None:
        """Say what is wrong with audio that the encoder failed on. Afterwards, since some encoders pad what others cannot take."""
        ratio, channels = self.samples_per_latent, self.in_channels
        if is_transformed and self.pretransform is not None:
            ratio, channels = ratio // self.pretransform.downsampling_ratio, self.pretransform.encoded_channels
        if audio.dim() != 3 or audio.shape[1] != channels:
            raise AudioError(
                f"encode: expected audio of the shape (batch, {channels}, samples), got {tuple(audio.shape)}; "
                "preprocess_audio_for_encoder makes it of a clip"
            ) from error
        if audio.shape[2] < ratio:
            raise AudioError(
                f"encode: the audio has {audio.shape[2]} samples, but one latent frame takes {ratio}; pad it, as "
                "preprocess_audio_for_encoder does"
            ) from error

    def _through_bottleneck(self, latents: Tensor, skip: bool, kwargs: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        """(B, W, L) -> latents (B, D, L), and what there is to say about them."""
        info: dict[str, Any] = {"pre_bottleneck_latents": latents}
        if self.bottleneck is not None and not skip:
            latents, bottleneck_info = self.bottleneck.encode(latents, return_info=True, **kwargs)
            info.update(bottleneck_info)
        return latents, info

    def decode(self, latents: Tensor, skip_bottleneck: bool = False, iterate_batch: bool = False, **kwargs: Any) -> Tensor:
        """Decode a batch.

        Args:
            latents: (B, D, L)
            skip_bottleneck: ``latents`` are already what the decoder takes.
            iterate_batch: One item at a time, to save memory.
            **kwargs: For the decoder.

        Returns:
            Audio (B, C, T).
        """
        if self.bottleneck is not None and not skip_bottleneck:
            latents = self.bottleneck.decode(latents)
        assert self.decoder is not None
        audio = _per_item(partial(self.decoder, **kwargs), latents, iterate_batch)
        if self.pretransform is not None:  # even if it is not trained itself, gradients have to get through to the decoder
            audio = _per_item(self.pretransform.decode, audio, iterate_batch)
        return torch.tanh(audio) if self.soft_clip else audio

    def decode_tokens(self, tokens: Tensor, **kwargs: Any) -> Tensor:
        """Decode what a discrete bottleneck's `encode` reported under ``bottleneck.tokens_id``.

        Args:
            tokens: In the layout of ``info``: (B, K, L), or (B, L, K) if ``bottleneck.codebooks_last``. The first codebooks alone are fine.
            **kwargs: For `decode_audio`.

        Returns:
            Audio (B, C, T).

        Raises:
            ConfigError: If the bottleneck is not discrete.
        """
        if not isinstance(self.bottleneck, DiscreteBottleneck):
            raise ConfigError(f"decode_tokens: the bottleneck {type(self.bottleneck).__name__} has no tokens; use decode")
        latents = self.bottleneck.decode_quantized(self.bottleneck.decode_tokens(tokens)).to(dtype_of(self))  # (B, D', L)
        return self.decode_audio(latents, skip_bottleneck=True, **kwargs)

    def forward(self, audio: Tensor) -> Tensor:
        """Reconstruct: (B, C, T) -> (B, C, T)."""
        return self.decode(self.encode(audio))

    def preprocess_audio_for_encoder(self, audio: Tensor, in_sr: int) -> Tensor:
        """One clip of any rate, length and channel count -> (1, C, T) as the encoder wants it.

        Args:
            audio: (T,), (C, T) or (1, C, T)
            in_sr: Its rate, in Hz.
        """
        return self.preprocess_audio_list_for_encoder([audio], [in_sr])

    def preprocess_audio_list_for_encoder(self, audio_list: Sequence[Tensor], in_sr_list: int | Sequence[int]) -> Tensor:
        """Clips of any rate, length and channel count -> one batch, zero-padded to a common multiple of ``min_length``.

        Args:
            audio_list: Each (T,), (C, T) or (1, C, T).
            in_sr_list: Their rate, or one rate each, in Hz.

        Returns:
            (B, C, T)

        Raises:
            AudioError: If the numbers of clips and rates differ, or a clip has an impossible shape.
        """
        rates = [in_sr_list] * len(audio_list) if isinstance(in_sr_list, int) else list(in_sr_list)
        if len(rates) != len(audio_list) or not audio_list:
            raise AudioError(f"need as many sample rates as clips and at least one clip, got {len(rates)} and {len(audio_list)}")
        clips: list[Tensor] = []
        for clip, rate in zip(audio_list, rates, strict=True):
            clip = clip.squeeze(0) if clip.dim() == 3 and clip.shape[0] == 1 else clip
            clip = clip[None] if clip.dim() == 1 else clip
            if clip.dim() != 2:
                raise AudioError(f"a clip must be (T,), (C, T) or (1, C, T), got {tuple(clip.shape)}")
            clips.append(resample(clip, rate, self.sample_rate))  # (C, T)
        longest = max(clip.shape[-1] for clip in clips)
        padded = math.ceil(longest / self.min_length) * self.min_length
        return torch.stack(
            [set_audio_channels(F.pad(clip, (0, padded - clip.shape[-1]))[None], self.in_channels)[0] for clip in clips]
        )  # (B, C, T)

    def encode_audio(self, audio: Tensor, chunked: bool = False, overlap: int = 32, chunk_size: int = 128, **kwargs: Any) -> Any:
        """`encode`, optionally in chunks.

        Args:
            audio: (B, C, T)
            chunked: Encode overlapping chunks one after the other. A ``vae`` bottleneck then draws its noise per chunk. With
                ``return_info`` only the encoder works in chunks, and the bottleneck sees everything, so that losses and tokens are whole.
            overlap: Latent frames that neighbouring chunks share; exact when half of it covers the receptive field.
            chunk_size: Latent frames per chunk.
            **kwargs: For `encode`.
        """
        if not chunked:
            return self.encode(audio, **kwargs)
        if kwargs.pop("return_info", False):
            skip = kwargs.pop("skip_bottleneck", False)
            _, for_bottleneck = _split_kwargs(self.encoder, kwargs)
            latents = self.encode_audio(audio, True, overlap, chunk_size, skip_bottleneck=True, **kwargs)
            return self._through_bottleneck(
                latents, skip, {key: for_bottleneck[key] for key in for_bottleneck if key not in ENCODE_OPTIONS}
            )
        ratio = int(self.samples_per_latent)
        return map_chunks(
            audio,
            lambda chunk: self.encode(chunk, **kwargs),
            chunk_length=chunk_size * ratio,
            overlap_length=overlap * ratio,
            ratio=Fraction(1, ratio),
            trim=overlap // 2,
            alignment=_alignment(self.encoder) * ratio,
        )

    def decode_audio(self, latents: Tensor, chunked: bool = False, overlap: int = 32, chunk_size: int = 128, **kwargs: Any) -> Tensor:
        """`decode`, optionally in chunks.

        Args:
            latents: (B, D, L)
            chunked: Decode overlapping chunks one after the other.
            overlap: Latent frames that neighbouring chunks share.
            chunk_size: Latent frames per chunk.
            **kwargs: For `decode`.
        """
        if not chunked:
            return self.decode(latents, **kwargs)
        ratio = int(self.samples_per_latent)
        return map_chunks(
            latents,
            lambda chunk: self.decode(chunk, **kwargs),
            chunk_length=chunk_size,
            overlap_length=overlap,
            ratio=Fraction(ratio),
            trim=overlap // 2 * ratio,
            alignment=_alignment(self.decoder),
        )


def _alignment(module: nn.Module | None) -> int:
    """Latent frames of whose multiples coding may start; see ``base``."""
    return getattr(module, "alignment", 1)


def _split_kwargs(encoder: nn.Module | None, kwargs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options that the encoder's ``forward`` names, and the rest."""
    named = inspect.signature(encoder.forward).parameters if encoder is not None and kwargs else {}
    return {key: value for key, value in kwargs.items() if key in named}, {key: value for key, value in kwargs.items() if key not in named}


def _per_item(function: Any, batch: Tensor, iterate: bool) -> Tensor:
    return torch.cat([function(item) for item in batch.split(1)]) if iterate else function(batch)


@MODELS.register("autoencoder")
def build_autoencoder(config: AutoencoderConfig) -> AudioAutoencoder:
    """Encoder, bottleneck and decoder between audio and latents.

    Encoder, decoder, pretransform and bottleneck draw their weights in this order.
    """
    model = config.model
    encoder = ENCODERS.build(model.encoder.type, model.encoder.config).requires_grad_(model.encoder.requires_grad)
    decoder = DECODERS.build(model.decoder.type, model.decoder.config).requires_grad_(model.decoder.requires_grad)
    pretransform = build_pretransform(model.pretransform, config.sample_rate) if model.pretransform else None
    return AudioAutoencoder(
        encoder,
        decoder,
        latent_dim=model.latent_dim,
        downsampling_ratio=model.downsampling_ratio,
        sample_rate=config.sample_rate,
        io_channels=model.io_channels,
        bottleneck=build_bottleneck(model.bottleneck) if model.bottleneck else None,
        pretransform=pretransform,
        in_channels=model.in_channels,
        out_channels=model.out_channels,
        soft_clip=model.decoder.soft_clip,
    )


def create_autoencoder_from_config(config: Mapping[str, Any]) -> AudioAutoencoder:
    """Build an autoencoder with fresh weights from a config with ``sample_rate`` and ``model``. The config is read, never written.

    Raises:
        ConfigError: With every mistake.
    """
    parsed = parse_model_config({**config, "model_type": "autoencoder"})
    assert isinstance(parsed, AutoencoderConfig)
    return build_autoencoder(parsed)
