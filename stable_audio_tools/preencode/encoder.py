"""From a model to what is stored: which encoder it has, how long an input has to be, and what its bottleneck makes of one item."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stable_audio_tools.errors import ConfigError, DataError
from stable_audio_tools.models.autoencoders.autoencoder import AudioAutoencoder
from stable_audio_tools.models.bottlenecks.base import DiscreteBottleneck
from stable_audio_tools.models.bottlenecks.vae import VAEBottleneck
from stable_audio_tools.models.layers.parameters import dtype_of
from stable_audio_tools.models.pretransforms.autoencoder import AutoencoderPretransform
from stable_audio_tools.models.pretransforms.base import Pretransform

Stored = Literal["sample", "mean", "mean-scale", "tokens"]
MARGIN = 8  # frames; the Oobleck encoder of Stable Audio sees 7.6 frames of 2048 samples to either side of one


class Clip(NamedTuple):
    """One clip to encode.

    Attributes:
        audio: (C, T), without padding.
        seed: Of its noise.
    """

    audio: Tensor
    seed: int


def noise_seed(seed: int, name: str) -> int:
    """The seed of one item's noise, from the run's and the item's name: whatever else is encoded, and in whatever order."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "little") >> 1


class LatentEncoder:
    """Encodes clips of different lengths, each with little more padding than it needs.

    Args:
        model: An autoencoder, or a model that has a pretransform.
        stored: ``sample`` draws from a VAE's distribution, ``mean`` is its mean, ``mean-scale`` both of its parameters, before any is
            drawn; for other bottlenecks the first two are the same. ``tokens`` are those of a discrete bottleneck.
        sample_size: Samples of a whole crop.
        full_length: Encode every clip with padding up to a whole crop.

    Raises:
        ConfigError: If the model has no encoder, or not what is to be stored.
    """

    def __init__(self, model: nn.Module, *, stored: Stored, sample_size: int, full_length: bool = False) -> None:
        self.stored: Stored = stored
        self.full_length = full_length
        self.module, self.options, self.name = _encoder_of(model)
        self._refuse(stored)
        module = self.module
        self.ratio = int(module.downsampling_ratio)
        self.audio_channels = int(getattr(module, "in_channels", None) or module.io_channels)  # of a pretransform only the latter
        self.alignment = int(getattr(getattr(module, "encoder", None), "alignment", 1))
        step = self.ratio * self.alignment
        self.frames = -(-sample_size // step) * self.alignment
        self._silence: Tensor | None = None

    def _refuse(self, stored: Stored) -> None:
        bottleneck = getattr(self.module, "bottleneck", None)
        if stored == "mean-scale" and not isinstance(bottleneck, VAEBottleneck):
            raise ConfigError(
                f"--store mean-scale: needs a 'vae' bottleneck, which has both, and {self.name} has "
                f"{type(bottleneck).__name__ if bottleneck is not None else 'no bottleneck'}; use --store sample"
            )
        is_discrete = isinstance(bottleneck, DiscreteBottleneck) or (isinstance(self.module, Pretransform) and self.module.is_discrete)
        if stored == "tokens" and not is_discrete:
            raise ConfigError(f"--is-discrete: {self.name} makes no tokens; leave it out to store latents")

    @property
    def device(self) -> torch.device:
        """Where the encoder is."""
        return next((tensor.device for tensor in self.module.state_dict().values()), torch.device("cpu"))

    def num_frames(self, num_samples: int) -> int:
        """Frames that hold audio, of a clip of so many samples."""
        return min(-(-num_samples // self.ratio), self.frames)

    def bucket(self, num_samples: int) -> int:
        """Frames that a clip is encoded with: a bit more than it has, and at most an eighth more than that, of few different values.

        >>> from types import SimpleNamespace as Some
        >>> some = Some(full_length=False, frames=645, alignment=1, num_frames=lambda n: n)
        >>> [LatentEncoder.bucket(some, frames) for frames in (1, 108, 110, 300, 629, 645)]
        [18, 128, 128, 320, 645, 645]
        """
        if self.full_length:
            return self.frames
        wanted = self.num_frames(num_samples) + 2 * MARGIN
        step = max(1 << max(wanted.bit_length() - 4, 0), 1)
        step = -(-step // self.alignment) * self.alignment
        return min(-(-wanted // step) * step, self.frames)

    @torch.inference_mode()
    def encode(self, clips: Sequence[Clip], *, pad: bool) -> list[Tensor]:
        """Encode clips of one bucket.

        Args:
            clips: Of the same `bucket`.
            pad: Return the frames of a whole crop, the rest of them encoded silence; otherwise only those that hold audio.

        Returns:
            One tensor (D, L) each, in float32, or tokens (K, L).

        Raises:
            DataError: If memory runs out, or the encoder gives something that is no number.
        """
        frames = self.bucket(clips[0].audio.shape[-1])
        batch = torch.stack([F.pad(clip.audio, (0, frames * self.ratio - clip.audio.shape[-1])) for clip in clips])  # (B, C, T)
        try:
            features = self._features(batch)  # (B, W, frames)
        except torch.OutOfMemoryError as error:
            seconds = f"{len(clips)} clips of {frames} frames"
            raise DataError(f"out of memory while encoding {seconds} at once; use a smaller --batch-size") from error
        encoded = []
        for clip, item in zip(clips, features, strict=True):
            real = self.num_frames(clip.audio.shape[-1])
            if not pad:
                item = item[:, :real]
            elif frames < self.frames:
                item = torch.cat([item[:, : real + MARGIN], self.silence[:, real + MARGIN :]], dim=-1)  # (W, self.frames)
            encoded.append(self._latents(item[None], clip.seed)[0].cpu())
        return encoded

    @property
    @torch.inference_mode()
    def silence(self) -> Tensor:
        """What the encoder makes of a whole crop of silence, before the bottleneck: (W, frames)."""
        if self._silence is None:
            self._silence = self._features(torch.zeros(1, self.audio_channels, self.frames * self.ratio))[0]
        return self._silence

    @torch.inference_mode()
    def silent_latents(self) -> Tensor:
        """What is stored for silence, (D, frames); of a distribution its mean, not one draw for all."""
        kind: Stored = "mean" if self.stored == "sample" else self.stored
        return self._latents(self.silence[None], 0, kind)[0].cpu()

    def _features(self, audio: Tensor) -> Tensor:
        """(B, C, T) -> what goes into the bottleneck, or what a pretransform gives, (B, W, L)."""
        module = self.module
        audio = audio.to(self.device, dtype_of(module, audio.dtype))
        if isinstance(module, AudioAutoencoder):
            return module.encode_audio(audio, skip_bottleneck=True, **self.options)
        if self.stored == "tokens":
            return module.tokenize(audio)
        return module.encode(audio) * getattr(module, "scale", 1.0)

    def _latents(self, features: Tensor, seed: int, stored: Stored | None = None) -> Tensor:
        """(1, W, L) -> what is stored, (1, D, L), with noise of its own."""
        stored, bottleneck = stored or self.stored, getattr(self.module, "bottleneck", None)
        if stored == "tokens" and isinstance(bottleneck, DiscreteBottleneck):
            return bottleneck.tokens_of(bottleneck.encode(features, return_info=True)[1]).int()
        if features.dtype in (torch.int32, torch.int64):
            return features.int()
        if bottleneck is not None and stored != "mean-scale":
            devices = [features.device] if features.is_cuda else []
            with torch.random.fork_rng(devices=devices):
                torch.manual_seed(seed)
                options: dict[str, Any] = {"sample": stored == "sample"} if isinstance(bottleneck, VAEBottleneck) else {}
                features = bottleneck.encode(features, **options)
        latents = features.float()
        if not torch.isfinite(latents).all():
            hint = "; it may not fit into half precision: leave out --model-half" if features.dtype == torch.float16 else ""
            raise DataError(f"{self.name} gives NaN or infinite latents{hint}")
        return latents


def _encoder_of(model: nn.Module) -> tuple[Any, dict[str, Any], str]:
    """The part that encodes, its options, and what to call it."""
    if isinstance(model, AudioAutoencoder):
        return model, {}, "the autoencoder"
    pretransform = getattr(model, "pretransform", None)
    if isinstance(pretransform, AutoencoderPretransform):
        options = {"chunked": pretransform.chunked, "iterate_batch": pretransform.iterate_batch}
        return pretransform.model, options, "the pretransform's autoencoder"
    if isinstance(pretransform, Pretransform):
        return pretransform, {}, f"the pretransform {type(pretransform).__name__}"
    raise ConfigError(
        f"--model-config: {type(model).__name__} is no autoencoder and has no pretransform: there is nothing that encodes audio; "
        "give the config of the autoencoder"
    )
