"""DiffusionAutoencoder: latents are decoded by a diffusion model that is told what they say."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stable_audio_tools.config.check import parse_model_config
from stable_audio_tools.config.model import DiffusionAutoencoderConfig
from stable_audio_tools.families import BACKBONES, DECODERS, ENCODERS, MODELS
from stable_audio_tools.models.autoencoders.autoencoder import AudioAutoencoder
from stable_audio_tools.models.bottlenecks.base import Bottleneck
from stable_audio_tools.models.bottlenecks.build import build_bottleneck
from stable_audio_tools.models.layers.parameters import dtype_of, halve_parameters
from stable_audio_tools.models.pretransforms.base import Pretransform
from stable_audio_tools.models.pretransforms.build import build_pretransform
from stable_audio_tools.sampling.run import sample


class DiffusionAutoencoder(AudioAutoencoder):
    """Audio (B, C, T) to latents (B, D, L) and, by sampling, back.

    Without an encoder latents are the (pretransformed) audio itself; without a decoder they reach the diffusion model as they are.

    Args:
        encoder: (B, C, T) -> (B, W, L), or None. Its parameters are halved.
        decoder: (B, D, L) -> (B, W', L'), or None: from latents to what the diffusion model is told.
        diffusion: Predicts v from noisy audio (B, C, T), a time and ``input_concat_cond``.
        diffusion_downsampling_ratio: Lengths that it takes are multiples of this.
        latent_dim: Channels D of the latents.
        downsampling_ratio: Samples per latent frame, counted behind the pretransform.
        sample_rate: In Hz.
        io_channels: Channels of what is denoised: of the audio, or of the pretransform's output.
        bottleneck: Between encoder and decoder; None is the identity.
        pretransform: Applied to audio before the encoder, and inverted after sampling.
    """

    def __init__(
        self,
        encoder: nn.Module | None,
        decoder: nn.Module | None,
        diffusion: nn.Module,
        diffusion_downsampling_ratio: int,
        latent_dim: int,
        downsampling_ratio: int,
        sample_rate: int,
        io_channels: int = 2,
        bottleneck: Bottleneck | None = None,
        pretransform: Pretransform | None = None,
    ) -> None:
        audio_channels = io_channels if pretransform is None else pretransform.io_channels
        super().__init__(
            encoder,
            decoder,
            latent_dim=latent_dim,
            downsampling_ratio=downsampling_ratio,
            sample_rate=sample_rate,
            io_channels=io_channels,
            bottleneck=bottleneck,
            pretransform=pretransform,
            in_channels=audio_channels,
            out_channels=audio_channels,
        )
        self.diffusion = diffusion
        inner = 1 if pretransform is None else pretransform.downsampling_ratio
        self.samples_per_latent = downsampling_ratio * inner
        self.min_length = self.samples_per_latent * diffusion_downsampling_ratio
        if encoder is not None:
            halve_parameters(encoder)

    def concat_condition(self, latents: Tensor, *, skip_bottleneck: bool = False) -> Tensor:
        """What the diffusion model is told: latents (B, D, L) through bottleneck and decoder, repeated to (B, W, L downsampling_ratio)."""
        length = latents.shape[-1] * self.downsampling_ratio
        if self.bottleneck is not None and not skip_bottleneck:
            latents = self.bottleneck.decode(latents)
        if self.decoder is not None:
            latents = self.decoder(latents)
        return latents if latents.shape[-1] == length else F.interpolate(latents, length, mode="nearest")

    def decode(
        self,
        latents: Tensor,
        skip_bottleneck: bool = False,
        iterate_batch: bool = False,
        steps: int = 100,
        **kwargs: Any,
    ) -> Tensor:
        """Sample audio from latents, from noise of torch's global stream of the latents' device.

        Args:
            latents: (B, D, L)
            skip_bottleneck: ``latents`` are already what the decoder takes.
            iterate_batch: One item at a time, to save memory.
            steps: Sampler steps (v-DDIM).
            **kwargs: For the diffusion model.

        Returns:
            Audio (B, C, T).
        """
        if iterate_batch:
            return torch.cat([self.decode(item, skip_bottleneck, steps=steps, **kwargs) for item in latents.split(1)])
        cond = self.concat_condition(latents, skip_bottleneck=skip_bottleneck)  # (B, W, T)
        dtype = dtype_of(self.diffusion)
        noise = torch.randn(len(latents), self.io_channels, cond.shape[-1], device=latents.device).to(dtype)

        def predict(x: Tensor, t: Tensor) -> Tensor:
            return self.diffusion(x, t, input_concat_cond=cond.to(dtype), **kwargs)

        audio = sample(predict, noise, objective="v", steps=steps, sampler="v-ddim")
        if self.pretransform is not None:
            with nullcontext() if self.pretransform.enable_grad else torch.no_grad():
                audio = self.pretransform.decode(audio)
        return audio


@MODELS.register("diffusion_autoencoder")
def build_diffusion_autoencoder(config: DiffusionAutoencoderConfig) -> DiffusionAutoencoder:
    """Encoder whose latents a diffusion model, instead of a decoder, turns into audio.

    Encoder, decoder, bottleneck, pretransform and backbone draw their weights in this order.
    """
    model = config.model
    encoder = ENCODERS.build(model.encoder.type, model.encoder.config) if model.encoder else None
    decoder = DECODERS.build(model.decoder.type, model.decoder.config) if model.decoder else None
    for part, block in ((encoder, model.encoder), (decoder, model.decoder)):
        if part is not None and block is not None:
            part.requires_grad_(block.requires_grad)
    bottleneck = build_bottleneck(model.bottleneck) if model.bottleneck else None
    pretransform = build_pretransform(model.pretransform, config.sample_rate) if model.pretransform else None
    diffusion = BACKBONES.build(model.diffusion.type, model.diffusion.config, diffusion_objective="v")
    return DiffusionAutoencoder(
        encoder,
        decoder,
        diffusion,
        diffusion_downsampling_ratio=diffusion.length_multiple,
        latent_dim=model.latent_dim,
        downsampling_ratio=model.downsampling_ratio,
        sample_rate=config.sample_rate,
        io_channels=model.io_channels,
        bottleneck=bottleneck,
        pretransform=pretransform,
    )


def create_diffAE_from_config(config: Mapping[str, Any]) -> DiffusionAutoencoder:  # noqa: N802  # kept name
    """Build a diffusion autoencoder from a config with ``sample_rate`` and ``model``.

    Raises:
        ConfigError: With every mistake.
    """
    parsed = parse_model_config({**config, "model_type": "diffusion_autoencoder"})
    assert isinstance(parsed, DiffusionAutoencoderConfig)
    return build_diffusion_autoencoder(parsed)
