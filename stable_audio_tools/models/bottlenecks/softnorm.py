"""SoftNorm: latents with learned gain and bias, and a running measure of their spread; the bottleneck of Stable Audio 3."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from stable_audio_tools.config.base import NonNegativeInt, PositiveInt
from stable_audio_tools.families import BOTTLENECKS
from stable_audio_tools.models.bottlenecks.base import Bottleneck, check_width

MOMENTUM = 0.001  # share of a batch in the running deviation
TRAIN_NOISE, EVAL_NOISE = 5e-2, 1e-3  # noise before the decoder, in deviations of the latents


def _divergence(x: Tensor, dim: int) -> Tensor:
    """``m^2 + v - ln v - 1`` of mean and variance along ``dim``, averaged: zero for zero mean and unit variance."""
    mean = x.mean(dim=dim)
    variance = x.std(dim=dim).square().clamp(min=1e-4)
    return (mean.square() + variance - variance.log() - 1).mean()


@BOTTLENECKS.register("softnorm", losses=("softnorm",), width_key="dim")
class SoftNormBottleneck(Bottleneck):
    """Latents that are normal on average: a gain and bias per channel, and a loss (``softnorm_loss``, in training only) on mean and spread.

    With ``noise_regularize`` the decoder's input is noisy in eval mode too, very little; it then draws from the global random stream.

    Args:
        dim: Channels of the latents.
        noise_augment_dim: Channels of noise that the decoder gets besides the latents, each with a learned gain.
        noise_regularize: Add noise before decoding, so that the decoder does not depend on details.
        auto_scale: Divide by a running deviation over everything, so that latents have unit variance.
        freeze: Do not update the running deviation.
    """

    loss_weights: ClassVar[dict[str, float]] = {"softnorm_loss": 1.0}
    running_std: Tensor | None

    def __init__(
        self,
        dim: PositiveInt = 32,
        noise_augment_dim: NonNegativeInt = 0,
        noise_regularize: bool = False,
        auto_scale: bool = False,
        freeze: bool = False,
    ) -> None:
        super().__init__()
        self.noise_augment_dim = noise_augment_dim
        self.noise_regularize = noise_regularize
        self.freeze = freeze
        self.scaling_factor = nn.Parameter(torch.ones(1, dim, 1))
        self.bias = nn.Parameter(torch.zeros(1, dim, 1))
        self.noise_scaling_factor = nn.Parameter(torch.ones(1, noise_augment_dim, 1))
        self.register_buffer("running_std", torch.ones(1) if auto_scale else None)

    def encode(self, x: Tensor, return_info: bool = False, **kwargs: Any) -> Any:
        check_width(x, self.bias.shape[1], "softnorm bottleneck", "dim")
        x = x * self.scaling_factor + self.bias
        if self.running_std is not None:
            if self.training and not self.freeze:
                with torch.no_grad():
                    self.running_std.lerp_(x.detach().std().to(self.running_std), MOMENTUM).clamp_(min=1e-4)
            x = x / self.running_std
        info: dict[str, Tensor] = {}
        if self.training and return_info:
            info["softnorm_loss"] = _divergence(x, dim=2) + 0.4 * _divergence(x, dim=1)
        return (x, info) if return_info else x

    def decode(self, x: Tensor) -> Tensor:
        if self.running_std is not None:
            x = x * self.running_std
        if self.noise_regularize:
            spread = self.running_std if self.running_std is not None else x.std(dim=-1, keepdim=True)
            x = x + torch.randn_like(x) * spread * (TRAIN_NOISE if self.training else EVAL_NOISE)
        if self.noise_augment_dim > 0:
            noise = torch.randn_like(x[:, :1].expand(-1, self.noise_augment_dim, -1))
            x = torch.cat([x, self.noise_scaling_factor * noise], dim=1)  # (B, D + noise_augment_dim, L)
        return x
