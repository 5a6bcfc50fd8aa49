"""Normalisations of the transformer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stable_audio_tools.config.base import NonNegativeFloat, PositiveInt


class LayerNorm(nn.Module):
    """Layer norm with a learned gain, and a bias that is zero (a buffer) unless asked for.

    Args:
        dim: Channels of the last dimension.
        bias: Learn the bias.
        fix_scale: Do not learn the gain.
        force_fp32: Compute in float32 whatever the input is.
        eps: Added to the variance.
    """

    def __init__(
        self, dim: PositiveInt, *, bias: bool = False, fix_scale: bool = False, force_fp32: bool = False, eps: NonNegativeFloat = 1e-5
    ) -> None:
        super().__init__()
        gamma, beta = torch.ones(dim), torch.zeros(dim)
        if fix_scale:
            self.register_buffer("gamma", gamma)
        else:
            self.gamma = nn.Parameter(gamma)
        if bias:
            self.beta = nn.Parameter(beta)
        else:
            self.register_buffer("beta", beta)  # persistent: published checkpoints have it
        self.eps = eps
        self.force_fp32 = force_fp32

    def forward(self, x: Tensor) -> Tensor:  # (..., D) -> (..., D)
        if not self.force_fp32:
            return F.layer_norm(x, x.shape[-1:], weight=self.gamma, bias=self.beta, eps=self.eps)
        return F.layer_norm(x.float(), x.shape[-1:], weight=self.gamma.float(), bias=self.beta.float(), eps=self.eps).to(x.dtype)


class RMSNorm(nn.Module):
    """Divides by the root of the mean square, with a learned gain. Source: Zhang & Sennrich 2019, arXiv:1910.07467.

    Args:
        dim: Channels of the last dimension.
        fix_scale: Do not learn the gain.
        force_fp32: Compute in float32 whatever the input is.
        eps: Added to the mean square.
    """

    def __init__(self, dim: int, *, fix_scale: bool = False, force_fp32: bool = False, eps: float = 1e-5) -> None:
        super().__init__()
        if fix_scale:
            self.register_buffer("gamma", torch.ones(dim))
        else:
            self.gamma = nn.Parameter(torch.ones(dim))
        self.eps = eps
        self.force_fp32 = force_fp32

    def forward(self, x: Tensor) -> Tensor:  # (..., D) -> (..., D)
        if not self.force_fp32:
            return F.rms_norm(x, x.shape[-1:], weight=self.gamma.to(x.dtype), eps=self.eps)
        return F.rms_norm(x.float(), x.shape[-1:], weight=self.gamma.float(), eps=self.eps).to(x.dtype)


class AdaRMSNorm(nn.Module):
    """`RMSNorm` whose gain follows a condition: ``x / rms(x) * (1 + linear(cond))``, the linear part zero at the start.

    Args:
        dim: Channels of the last dimension.
        cond_dim: Width of the condition.
        eps: Added to the mean square.
    """

    def __init__(self, dim: int, cond_dim: int, eps: float = 1e-8) -> None:
        super().__init__()
        self.linear = nn.Linear(cond_dim, dim, bias=False)
        nn.init.zeros_(self.linear.weight)
        self.eps = eps

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:  # (B, L, D), (B, cond_dim) -> (B, L, D)
        gain = 1 + self.linear(cond)[:, None]  # (B, 1, D)
        return F.rms_norm(x, x.shape[-1:], eps=self.eps) * gain


class DynamicTanh(nn.Module):
    """``gamma * tanh(alpha x) + beta``: a normalisation without statistics. Source: Zhu et al. 2025, arXiv:2503.10622."""

    def __init__(self, dim: int, init_alpha: float = 10.0) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1) * init_alpha)
        self.gamma = nn.Parameter(torch.ones(dim))
        self.beta = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:  # (..., D) -> (..., D)
        return self.gamma * torch.tanh(self.alpha * x) + self.beta


class LayerScale(nn.Module):
    """A learned gain per channel on a residual branch, near zero at the start. Source: Touvron et al. 2021, arXiv:2103.17239."""

    def __init__(self, dim: int, init: float = 1e-5) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((dim,), init))

    def forward(self, x: Tensor) -> Tensor:  # (..., D) -> (..., D)
        return x * self.scale
