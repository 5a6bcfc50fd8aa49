"""VAE: latents are drawn from a Gaussian that the encoder describes."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from stable_audio_tools.families import BOTTLENECKS
from stable_audio_tools.models.bottlenecks.base import Bottleneck


def vae_deviation(scale: Tensor) -> Tensor:
    """The standard deviation that an encoder's ``scale`` stands for; always positive."""
    return F.softplus(scale) + 1e-4


def vae_sample(mean: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Draw from N(mean, softplus(scale) + 1e-4) with the global random stream, and measure the divergence from N(0, 1).

    Source: Kingma & Welling 2014, arXiv:1312.6114. The divergence has no factor 1/2 and is a sum over channels: published loss weights
    assume both.

    Args:
        mean: (B, D, L)
        scale: (B, D, L), before the softplus.

    Returns:
        Latents (B, D, L), and the divergence, averaged over batch and time.
    """
    deviation = vae_deviation(scale)
    variance = deviation.square()
    latents = torch.randn_like(mean) * deviation + mean
    kl = (mean.square() + variance - variance.log() - 1).sum(dim=1).mean()
    return latents, kl


@BOTTLENECKS.register("vae", losses=("kl",), encoder_width=2)
class VAEBottleneck(Bottleneck):
    """The first half of the encoder's channels are means, the second half scales. Sampling happens in eval mode too."""

    loss_weights: ClassVar[dict[str, float]] = {"kl": 1e-6}

    def __init__(self) -> None:
        super().__init__()

    def encode(self, x: Tensor, return_info: bool = False, *, sample: bool = True, **kwargs: Any) -> Any:
        """(B, 2 D, L) -> (B, D, L).

        Args:
            x: Means and scales.
            return_info: Also return ``{"kl": ...}``.
            sample: Draw from the distribution; otherwise return its mean, which is what variations and pre-encoding want when they
                should not depend on the random stream.
            **kwargs: Ignored; other bottlenecks have more options.
        """
        mean, scale = x.chunk(2, dim=1)
        if sample:
            latents, kl = vae_sample(mean, scale)
        else:
            variance = vae_deviation(scale).square()
            latents, kl = mean, (mean.square() + variance - variance.log() - 1).sum(dim=1).mean()
        return (latents, {"kl": kl}) if return_info else latents

    def decode(self, x: Tensor) -> Tensor:
        return x
