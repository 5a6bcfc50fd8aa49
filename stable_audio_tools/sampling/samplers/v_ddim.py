"""DDIM for the v objective."""

from __future__ import annotations

import torch
from torch import Tensor

from stable_audio_tools.config.base import NonNegativeFloat
from stable_audio_tools.families import SAMPLERS
from stable_audio_tools.sampling.objectives import VObjective
from stable_audio_tools.sampling.samplers.base import Network, OnStep, PairNetwork, Step, ignore


@SAMPLERS.register("v-ddim", objectives=("v",), space="time", grid="linear")
def sample_v_ddim(predict: Network, x: Tensor, times: Tensor, *, eta: NonNegativeFloat = 0.0, on_step: OnStep = ignore) -> Tensor:
    """Deterministic (``eta=0``) to fully stochastic (``eta=1``) steps along the v path. Source: Song et al. 2021, arXiv:2010.02502.

    Args:
        predict: Network, predicting v.
        x: Noise (B, D, L).
        times: (steps + 1,), falling to 0.
        eta: Share of the noise that is redrawn at every step.
        on_step: Called after every network call.

    Returns:
        The data as the network sees it at the last time before 0.
    """

    def predict_pair(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        v = predict(x, t)
        return v, v

    return sample_v_ddim_cfgpp(predict_pair, x, times, eta=eta, on_step=on_step)


@SAMPLERS.register("v-ddim-cfgpp", objectives=("v",), space="time", grid="linear", pair=True)
def sample_v_ddim_cfgpp(predict: PairNetwork, x: Tensor, times: Tensor, *, eta: NonNegativeFloat = 0.0, on_step: OnStep = ignore) -> Tensor:
    """`sample_v_ddim` that goes back to noise along the unconditional prediction. Source: Chung et al. 2024, arXiv:2406.08070.

    Args:
        predict: Network, predicting v with guidance, and v without the condition.
        x: Noise (B, D, L).
        times: (steps + 1,), falling to 0.
        eta: Share of the noise that is redrawn at every step.
        on_step: Called after every network call.

    Returns:
        The data as the guided network sees it at the last time before 0.
    """
    times = times[:-1]
    alphas, sigmas = VObjective().alpha_sigma(times)
    denoised = x
    for i, t in enumerate(times):
        v, v_unconditional = predict(x, t)
        denoised = x * alphas[i] - v * sigmas[i]
        noise = x * sigmas[i] + v_unconditional * alphas[i]
        on_step(Step(i, float(t), x, denoised))
        if i == len(times) - 1:
            break
        fresh = eta * (sigmas[i + 1].square() / sigmas[i].square()).sqrt() * (1 - alphas[i].square() / alphas[i + 1].square()).sqrt()
        x = denoised * alphas[i + 1] + noise * (sigmas[i + 1].square() - fresh.square()).sqrt()
        if eta:
            x = x + torch.randn_like(x) * fresh
    return denoised
