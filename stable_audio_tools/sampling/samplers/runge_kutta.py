"""Heun's method and the midpoint method in the noise level: ``dx/dsigma = (x - denoised) / sigma``.

Source: Karras et al. 2022, arXiv:2206.00364, algorithm 1, without its added noise.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from stable_audio_tools.families import SAMPLERS
from stable_audio_tools.sampling.samplers.base import Network, OnStep, Step, advance_stream, ignore


@SAMPLERS.register("k-heun", objectives=("v",), space="sigma", grid="polyexponential")
def sample_heun(denoise: Network, x: Tensor, sigmas: Tensor, *, on_step: OnStep = ignore) -> Tensor:
    """Second order, two network calls per step: the mean of the slopes at both ends."""
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        advance_stream(x)
        denoised = denoise(x, sigma)
        on_step(Step(i, float(sigma), x, denoised))
        slope = (x - denoised) / sigma
        end = x + slope * (sigma_next - sigma)
        if sigma_next > 0:
            slope = (slope + (end - denoise(end, sigma_next)) / sigma_next) / 2
            end = x + slope * (sigma_next - sigma)
        x = end
    return x


@SAMPLERS.register("k-dpm-2", objectives=("v",), space="sigma", grid="polyexponential")
def sample_dpm_2(denoise: Network, x: Tensor, sigmas: Tensor, *, on_step: OnStep = ignore) -> Tensor:
    """Second order, two network calls per step: the slope at the geometric mean of both ends."""
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        advance_stream(x)
        denoised = denoise(x, sigma)
        on_step(Step(i, float(sigma), x, denoised))
        slope = (x - denoised) / sigma
        if sigma_next > 0:
            middle = torch.exp((sigma.log() + sigma_next.log()) / 2)
            x_middle = x + slope * (middle - sigma)
            slope = (x_middle - denoise(x_middle, middle)) / middle
        x = x + slope * (sigma_next - sigma)
    return x
