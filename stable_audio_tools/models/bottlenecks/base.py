"""The contract of bottlenecks: what turns the encoder's output into latents, and latents into the decoder's input."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.families import BOTTLENECKS


class Bottleneck(nn.Module):
    """Between encoder and decoder.

    A registered bottleneck states ``encoder_width=2`` when the encoder must give twice as many channels as the latents have, and
    ``width_key`` when one of its parameters must equal the latents' channels.
    ``loss_weights`` names its own loss terms (keys of ``info``) with their default weights.

    Args:
        is_discrete: Whether latents can be written as tokens.
    """

    loss_weights: ClassVar[dict[str, float]] = {}

    def __init__(self, is_discrete: bool = False) -> None:
        super().__init__()
        self.is_discrete = is_discrete

    def encode(self, x: Tensor, return_info: bool = False, **kwargs: Any) -> Any:
        """(B, W, L) -> latents (B, D, L); with ``return_info`` also a dict of losses and by-products."""
        raise NotImplementedError

    def decode(self, x: Tensor) -> Tensor:
        """Latents (B, D, L) -> what the decoder takes, (B, D', L)."""
        raise NotImplementedError


class DiscreteBottleneck(Bottleneck):
    """A bottleneck whose latents can be written as tokens: ``encode(x, return_info=True)[1][bottleneck.tokens_id]``.

    Args:
        num_quantizers: Codebooks K.
        codebook_size: Codes per codebook.
        tokens_id: Key of the tokens in ``info``.
    """

    codebooks_last: ClassVar[bool] = False
    """Whether tokens are (B, L, K); otherwise (B, K, L). Scripts that read ``info`` depend on it."""

    def __init__(self, num_quantizers: int, codebook_size: int, tokens_id: str) -> None:
        super().__init__(is_discrete=True)
        self.num_quantizers = num_quantizers
        self.codebook_size = codebook_size
        self.tokens_id = tokens_id

    def tokens_of(self, info: dict[str, Any]) -> Tensor:
        """The tokens in what `encode` reports, always as (B, K, L)."""
        tokens: Tensor = info[self.tokens_id]
        return tokens.transpose(1, 2) if self.codebooks_last else tokens

    def in_own_layout(self, tokens: Tensor) -> Tensor:
        """Tokens (B, K, L) in the layout that `decode_tokens` takes; the inverse of `tokens_of`."""
        return tokens.transpose(1, 2) if self.codebooks_last else tokens

    def decode_tokens(self, tokens: Tensor) -> Tensor:
        """Tokens, in the layout of ``info``, -> quantized latents (B, D, L). Fewer codebooks than there are is allowed: the first ones."""
        raise NotImplementedError

    def decode_quantized(self, x: Tensor) -> Tensor:
        """What `decode` does to latents that are quantized already: (B, D, L) -> (B, D', L)."""
        return self.decode(x)


def with_noise_channels(x: Tensor, num_channels: int) -> Tensor:
    """Append channels of Gaussian noise: (B, D, L) -> (B, D + num_channels, L).

    Drawn on the CPU, so that a seed gives the same noise on every device.
    """
    if num_channels == 0:
        return x
    noise = torch.randn(x.shape[0], num_channels, x.shape[-1])
    return torch.cat([x, noise.to(x)], dim=1)


def check_width(x: Tensor, width: int, where: str, key: str) -> None:
    """Refuse latents of another width than a quantizer was built for.

    Raises:
        ConfigError: If ``x`` (B, W, L) does not have ``width`` channels.
    """
    if x.shape[1] != width:
        raise ConfigError(f"{where}: got {x.shape[1]} channels, but {key} is {width}; make the encoder's output {width} wide")


__all__ = ["BOTTLENECKS", "Bottleneck", "DiscreteBottleneck", "check_width", "with_noise_channels"]
