"""Wasserstein: latents are pulled towards a Gaussian as a whole, not one by one."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from stable_audio_tools.config.base import NonNegativeInt, PositiveFloat
from stable_audio_tools.errors import ConfigError
from stable_audio_tools.families import BOTTLENECKS
from stable_audio_tools.models.bottlenecks.base import Bottleneck, with_noise_channels
from stable_audio_tools.models.layers.parameters import without_autocast


def mean_kernel(a: Tensor, b: Tensor) -> Tensor:
    """Mean over all pairs of ``exp(-|a - b|^2 / D^2)``.

    The square of the width, where its first power is usual, is what published loss weights assume.

    Args:
        a: (N, D)
        b: (M, D)
    """
    distances = a.square().sum(1)[:, None] + b.square().sum(1)[None] - 2 * a @ b.T  # (N, M), without the (N, M, D) differences
    return (-distances.clamp(min=0) / a.shape[1] ** 2).exp().mean()


def maximum_mean_discrepancy(latents: Tensor) -> Tensor:
    """How far latents are from a standard Gaussian, of which as many vectors are drawn from the global random stream.

    Source: Gretton et al. 2012, with the Gaussian kernel of `mean_kernel`; Tolstikhin et al. 2018, arXiv:1711.01558.

    Args:
        latents: (B, D, L)
    """
    with without_autocast(latents.device):
        rows = latents.float().transpose(1, 2).flatten(0, 1)  # (B * L, D)
        noise = torch.randn_like(rows)
        return mean_kernel(rows, rows) + mean_kernel(noise, noise) - 2 * mean_kernel(rows, noise)


@BOTTLENECKS.register("wasserstein", losses=("mmd",))
class WassersteinBottleneck(Bottleneck):
    """Latents as they are, with a loss (``mmd``, in training only) on their distribution.

    Args:
        noise_augment_dim: Channels of noise that the decoder gets besides the latents.
        bypass_mmd: Do not compute the loss; it is reported as zero.
        use_tanh: Bound the latents to [-tanh_scale, tanh_scale].
        tanh_scale: That bound; must be positive.
    """

    loss_weights: ClassVar[dict[str, float]] = {"mmd": 100.0}

    def __init__(
        self, noise_augment_dim: NonNegativeInt = 0, bypass_mmd: bool = False, use_tanh: bool = False, tanh_scale: PositiveFloat = 5.0
    ) -> None:
        super().__init__()
        if tanh_scale <= 0:
            raise ConfigError(f"wasserstein bottleneck: tanh_scale must be positive, got {tanh_scale}")
        self.noise_augment_dim = noise_augment_dim
        self.bypass_mmd = bypass_mmd
        self.use_tanh = use_tanh
        self.tanh_scale = tanh_scale

    def encode(self, x: Tensor, return_info: bool = False, **kwargs: Any) -> Any:
        info: dict[str, Tensor] = {}
        if self.training and return_info:
            info["mmd"] = x.new_zeros(()) if self.bypass_mmd else maximum_mean_discrepancy(x)
        if self.use_tanh:
            x = torch.tanh(x / self.tanh_scale) * self.tanh_scale
        return (x, info) if return_info else x

    def decode(self, x: Tensor) -> Tensor:
        return with_noise_channels(x, self.noise_augment_dim)
