"""The contract of pretransforms: an (almost) invertible change of representation that another model works on."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from stable_audio_tools.families import PRETRANSFORMS


class Pretransform(nn.Module):
    """Audio (B, C, T) to (B, D, L) and back.

    A registered pretransform states ``ratio_key`` and ``width_key``: the keys of its config that hold the downsampling ratio and the
    channels of its output, or several keys whose product it is, so that configs can be checked before anything is built. ``octaves_key``
    holds a number n such that both are 2^n times that, ``ratio_divisor_key`` one that the ratio is to be divided by.

    Args:
        enable_grad: Train it together with the model around it.
        io_channels: Audio channels.
        is_discrete: Whether it can `tokenize`.
    """

    encoded_channels: int
    downsampling_ratio: int
    num_quantizers: int  # codebooks, if it is discrete
    codebook_size: int  # tokens per codebook

    def __init__(self, enable_grad: bool, io_channels: int, is_discrete: bool) -> None:
        super().__init__()
        self.enable_grad = enable_grad
        self.io_channels = io_channels
        self.is_discrete = is_discrete

    def train(self, mode: bool = True) -> Pretransform:
        """Training mode, unless it is frozen: codebooks and noise of what is not trained stay as they are in a model that is."""
        return super().train(mode and self.enable_grad)

    def encode(self, x: Tensor, **kwargs: Any) -> Tensor:
        """(B, C, T) -> (B, D, L)."""
        raise NotImplementedError

    def decode(self, z: Tensor, **kwargs: Any) -> Tensor:
        """(B, D, L) -> (B, C, T)."""
        raise NotImplementedError

    def tokenize(self, x: Tensor) -> Tensor:
        """(B, C, T) -> tokens (B, K, L)."""
        raise NotImplementedError(f"{type(self).__name__} is not discrete")

    def decode_tokens(self, tokens: Tensor) -> Tensor:
        """Tokens (B, K, L) -> (B, C, T)."""
        raise NotImplementedError(f"{type(self).__name__} is not discrete")


__all__ = ["PRETRANSFORMS", "Pretransform"]
