"""DPM-Solver++ for rectified flows."""

from __future__ import annotations

import torch
from torch import Tensor

from stable_audio_tools.config.base import NonNegativeFloat
from stable_audio_tools.families import SAMPLERS
from stable_audio_tools.sampling.samplers.base import Network, OnStep, Step, ignore, steps_of, time_of


@SAMPLERS.register("dpmpp", objectives=("rectified_flow", "rf_denoiser"), space="time", grid="log_snr", per_item=True)
def sample_flow_dpmpp(predict: Network, x: Tensor, times: Tensor, *, floor: NonNegativeFloat = 0.0, on_step: OnStep = ignore) -> Tensor:
    """Second order, multistep, in the log-SNR ``ln((1 - t) / t)``. Source: Lu et al. 2022, arXiv:2211.01095.

    Args:
        predict: Network, predicting the velocity.
        x: Noise (B, D, L).
        times: (steps + 1,) or (B, steps + 1), falling to 0.
        floor: Least value of ``t`` and ``1 - t`` in the log-SNR. 0, as in version 0.0.19: a step from time 1 is infinitely long, so the
            second one is of first order. Version 0.0.20 has 1e-10.
        on_step: Called after every network call.
    """
    previous: Tensor | None = None
    h_last = times.new_zeros(())
    for i, t, t_next in steps_of(times):
        denoised = x - t * predict(x, t)
        on_step(Step(i, time_of(t), x, denoised))
        h = _log_snr(t_next, floor) - _log_snr(t, floor)
        estimate = denoised
        is_last = i == times.shape[-1] - 2
        if previous is not None and not is_last:
            ratio = h_last / h
            estimate = (1 + 1 / (2 * ratio)) * denoised - (1 / (2 * ratio)) * previous
        x = (t_next / t) * x - (1 - t_next) * torch.expm1(-h) * estimate
        previous, h_last = denoised, h
    return x


def _log_snr(t: Tensor, floor: float) -> Tensor:
    return torch.log((1 - t).clamp(min=floor) / t.clamp(min=floor))
