"""DPM-Solver++ in k-diffusion's form: multistep solvers for ``x = data + sigma * noise``.

Source: Lu et al. 2022, arXiv:2211.01095; the stochastic and third-order forms are k-diffusion's. In all of them
``t = -log(sigma)`` and ``h`` is the step in t.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from stable_audio_tools.families import SAMPLERS
from stable_audio_tools.sampling.samplers.base import Network, NoiseSource, OnStep, Step, ignore


@SAMPLERS.register("dpmpp-2m", objectives=("v",), space="sigma", grid="polyexponential")
def sample_dpmpp_2m(denoise: Network, x: Tensor, sigmas: Tensor, *, on_step: OnStep = ignore) -> Tensor:
    """Second order, deterministic."""
    previous: Tensor | None = None
    h_last = sigmas.new_zeros(())
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        denoised = denoise(x, sigma)
        on_step(Step(i, float(sigma), x, denoised))
        t, t_next = -sigma.log(), -sigma_next.log()
        h = t_next - t
        if previous is None or sigma_next == 0:
            estimate = denoised
        else:
            r = h_last / h
            estimate = (1 + 1 / (2 * r)) * denoised - (1 / (2 * r)) * previous
        x = (sigma_next / sigma) * x - torch.expm1(-h) * estimate
        previous, h_last = denoised, h
    return x


@SAMPLERS.register("dpmpp-2m-sde", objectives=("v",), space="sigma", grid="polyexponential", stochastic="brownian")
def sample_dpmpp_2m_sde(denoise: Network, x: Tensor, sigmas: Tensor, *, noise: NoiseSource, on_step: OnStep = ignore) -> Tensor:
    """Second order (midpoint), stochastic."""
    previous: Tensor | None = None
    h_last = sigmas.new_zeros(())
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        denoised = denoise(x, sigma)
        on_step(Step(i, float(sigma), x, denoised))
        if sigma_next == 0:
            x = denoised
        else:
            h = sigma.log() - sigma_next.log()
            decay = -torch.expm1(-2 * h)
            x = (sigma_next / sigma) * torch.exp(-h) * x + decay * denoised
            if previous is not None:
                x = x + 0.5 * decay * (h / h_last) * (denoised - previous)
            x = x + noise(sigma, sigma_next) * (sigma_next * decay.sqrt())
            h_last = h
        previous = denoised
    return x


@SAMPLERS.register("dpmpp-3m-sde", objectives=("v",), space="sigma", grid="polyexponential", stochastic="brownian")
def sample_dpmpp_3m_sde(denoise: Network, x: Tensor, sigmas: Tensor, *, noise: NoiseSource, on_step: OnStep = ignore) -> Tensor:
    """Third order, stochastic."""
    denoised_1: Tensor | None = None
    denoised_2: Tensor | None = None
    h_1 = h_2 = sigmas.new_zeros(())
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        denoised = denoise(x, sigma)
        on_step(Step(i, float(sigma), x, denoised))
        if sigma_next == 0:
            return denoised
        h = sigma.log() - sigma_next.log()
        h_eta = 2 * h
        x = torch.exp(-h_eta) * x - torch.expm1(-h_eta) * denoised
        phi_2 = torch.expm1(-h_eta) / h_eta + 1
        if denoised_1 is not None and denoised_2 is not None:
            r0, r1 = h_1 / h, h_2 / h
            d1_0 = (denoised - denoised_1) / r0
            d1_1 = (denoised_1 - denoised_2) / r1
            d1 = d1_0 + (d1_0 - d1_1) * r0 / (r0 + r1)
            d2 = (d1_0 - d1_1) / (r0 + r1)
            x = x + phi_2 * d1 - (phi_2 / h_eta - 0.5) * d2
        elif denoised_1 is not None:
            x = x + phi_2 * (denoised - denoised_1) / (h_1 / h)
        x = x + noise(sigma, sigma_next) * (sigma_next * (-torch.expm1(-2 * h)).sqrt())
        denoised_1, denoised_2 = denoised, denoised_1
        h_1, h_2 = h, h_1
    return x


@SAMPLERS.register("k-dpmpp-2s-ancestral", objectives=("v",), space="sigma", grid="polyexponential", stochastic="gaussian")
def sample_dpmpp_2s_ancestral(denoise: Network, x: Tensor, sigmas: Tensor, *, noise: NoiseSource, on_step: OnStep = ignore) -> Tensor:
    """Second order, two network calls per step; goes below the next noise level and adds fresh noise up to it."""
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        denoised = denoise(x, sigma)
        on_step(Step(i, float(sigma), x, denoised))
        up = torch.minimum(sigma_next, (sigma_next**2 * (sigma**2 - sigma_next**2) / sigma**2).sqrt())
        down = (sigma_next**2 - up**2).sqrt()
        if down == 0:
            x = x + (x - denoised) / sigma * (down - sigma)
        else:
            h = sigma.log() - down.log()
            middle = torch.exp((sigma.log() + down.log()) / 2)
            x_middle = (middle / sigma) * x - torch.expm1(-h / 2) * denoised
            x = (down / sigma) * x - torch.expm1(-h) * denoise(x_middle, middle)
        if sigma_next > 0:
            x = x + noise(sigma, sigma_next) * up
    return x
