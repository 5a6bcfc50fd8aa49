"""A trained autoencoder as a pretransform: what makes a diffusion model a latent diffusion model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from stable_audio_tools.config.base import PositiveInt
from stable_audio_tools.config.model import AutoencoderConfig, PretransformBlock
from stable_audio_tools.families import MODELS, PRETRANSFORMS
from stable_audio_tools.models.layers.parameters import dtype_of
from stable_audio_tools.models.pretransforms.base import Pretransform


@PRETRANSFORMS.register(
    "autoencoder", trunk="AutoencoderModel", ratio_key="downsampling_ratio", width_key="latent_dim", audio_key="io_channels"
)
class AutoencoderPretransform(Pretransform):
    """Latents of an autoencoder, divided by ``scale``.

    Args:
        model: The autoencoder; its weights are saved under ``model.``.
        scale: Latents are divided by it when encoding, multiplied when decoding.
        model_half: Keep the autoencoder in float16 (until the model around it is cast); inputs and outputs are cast around it.
        iterate_batch: One item at a time, to save memory.
        chunked: Encode and decode in overlapping chunks, to save memory.
    """

    def __init__(
        self, model: Any, scale: float = 1.0, model_half: bool = False, iterate_batch: bool = False, chunked: bool = False
    ) -> None:
        super().__init__(enable_grad=False, io_channels=model.io_channels, is_discrete=model.is_discrete)
        self.model = model.requires_grad_(False).eval()
        self.scale = scale
        self.downsampling_ratio = model.downsampling_ratio
        self.sample_rate = model.sample_rate
        self.encoded_channels = model.latent_dim
        self.model_half = model_half
        self.iterate_batch = iterate_batch
        self.chunked = chunked
        if self.is_discrete:
            self.num_quantizers = model.bottleneck.num_quantizers
            self.codebook_size = model.bottleneck.codebook_size
        if model_half:
            self.model.half()

    @classmethod
    def from_config(cls, *, block: PretransformBlock, sample_rate: PositiveInt) -> AutoencoderPretransform:
        """Build from a ``pretransform`` block, whose ``config`` is the ``model`` of an autoencoder."""
        # Names point up, imports do not: the autoencoder is built through its registry, since it sits above this module.
        config = AutoencoderConfig.model_validate({"model_type": "autoencoder", "sample_rate": sample_rate, "model": block.config})
        model = MODELS.build("autoencoder", config=config)
        return cls(model, block.scale, block.model_half, block.iterate_batch, block.chunked)

    def encode(self, x: Tensor, **kwargs: Any) -> Tensor:
        x = x.to(dtype_of(self.model)) if self.model_half else x
        latents = self.model.encode_audio(x, chunked=self.chunked, iterate_batch=self.iterate_batch, **kwargs)
        return (latents.float() if self.model_half else latents) / self.scale

    def decode(self, z: Tensor, **kwargs: Any) -> Tensor:
        z = z * self.scale
        z = z.to(dtype_of(self.model)) if self.model_half else z
        audio = self.model.decode_audio(z, chunked=self.chunked, iterate_batch=self.iterate_batch, **kwargs)
        return audio.float() if self.model_half else audio

    def tokenize(self, x: Tensor, **kwargs: Any) -> Tensor:
        x = x.to(dtype_of(self.model)) if self.model_half else x
        _, info = self.model.encode_audio(x, chunked=self.chunked, iterate_batch=self.iterate_batch, return_info=True, **kwargs)
        return self.model.bottleneck.tokens_of(info)

    def decode_tokens(self, tokens: Tensor, **kwargs: Any) -> Tensor:
        tokens = self.model.bottleneck.in_own_layout(tokens)
        audio = self.model.decode_tokens(tokens, chunked=self.chunked, iterate_batch=self.iterate_batch, **kwargs)
        return audio.float() if self.model_half else audio

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load the *autoencoder's* state dict, as published scripts do when they swap in a fine-tuned decoder."""
        return self.model.load_state_dict(state_dict, strict=strict, assign=assign)
