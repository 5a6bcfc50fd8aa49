"""The contract of bottlenecks: what turns the encoder's output into latents, and latents into the decoder's input."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from stable_audio_tools.families import BOTTLENECKS


class Bottleneck(nn.Module):
    """Between encoder and decoder.

    A registered bottleneck states ``encoder_width=2`` when the encoder must give twice as many channels as the latents have.
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


__all__ = ["BOTTLENECKS", "Bottleneck"]
