"""Diffusion objectives: how data and noise are mixed at time t, and what the network predicts. Each formula once.

Time runs from 0 (data) to 1 (noise). ``x_t = alpha(t) * data + sigma(t) * noise``.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from stable_audio_tools.families import OBJECTIVES


class Noised(NamedTuple):
    """A training example.

    Attributes:
        x_t: Noised data, (B, D, L).
        t: Times, (B,).
        target: What the network should predict, (B, D, L).
    """

    x_t: Tensor
    t: Tensor
    target: Tensor


class Objective:
    """The contract: a mixing schedule and a prediction target. Implementations are stateless."""

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Weights of data and noise at time ``t``; same shape as ``t``."""
        raise NotImplementedError

    def target(self, data: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """What the network should predict, (B, D, L)."""
        raise NotImplementedError

    def denoised(self, x_t: Tensor, prediction: Tensor, t: Tensor) -> Tensor:
        """The data that a prediction implies; ``t`` broadcastable to ``x_t``."""
        raise NotImplementedError

    def add_noise(self, data: Tensor, noise: Tensor, t: Tensor) -> Noised:
        """Mix data (B, D, L) with noise (B, D, L) at times ``t`` (B,)."""
        alpha, sigma = (weight[:, None, None] for weight in self.alpha_sigma(t))  # (B, 1, 1)
        return Noised(data * alpha + noise * sigma, t, self.target(data, noise, alpha, sigma))


@OBJECTIVES.register("v")
class VObjective(Objective):
    """``x_t = cos(t pi/2) data + sin(t pi/2) noise``; the network predicts ``v = alpha noise - sigma data``.

    Source: Salimans & Ho 2022, arXiv:2202.00512.
    """

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.cos(t * math.pi / 2), torch.sin(t * math.pi / 2)

    def target(self, data: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return noise * alpha - data * sigma

    def denoised(self, x_t: Tensor, prediction: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = self.alpha_sigma(t)
        return x_t * alpha - prediction * sigma


@OBJECTIVES.register("rectified_flow")
class RectifiedFlowObjective(Objective):
    """``x_t = (1 - t) data + t noise``; the network predicts the velocity ``noise - data``.

    Source: Liu et al. 2022, arXiv:2209.03003.
    """

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return 1 - t, t

    def target(self, data: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return noise - data

    def denoised(self, x_t: Tensor, prediction: Tensor, t: Tensor) -> Tensor:
        return x_t - t * prediction


@OBJECTIVES.register("rf_denoiser")
class RFDenoiserObjective(RectifiedFlowObjective):
    """Rectified flow whose network was trained to jump to the data in few steps; sampled by ``pingpong``."""


def objective(name: str) -> Objective:
    """The objective of that name.

    Raises:
        ConfigError: If there is none.
    """
    return OBJECTIVES.build(name)
