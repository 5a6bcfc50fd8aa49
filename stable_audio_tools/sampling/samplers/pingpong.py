"""Ping-pong: jump to the data, add fresh noise, repeat."""

from __future__ import annotations

import torch
from torch import Tensor

from stable_audio_tools.families import SAMPLERS
from stable_audio_tools.sampling.samplers.base import Network, OnStep, Step, ignore, steps_of, time_of


@SAMPLERS.register("pingpong", objectives=("rectified_flow", "rf_denoiser"), space="time", grid="log_snr", per_item=True, stochastic="own")
def sample_pingpong(predict: Network, x: Tensor, times: Tensor, *, on_step: OnStep = ignore) -> Tensor:
    """``x = (1 - t_next) denoised + t_next noise``, for networks trained to denoise in one step. Source: arXiv:2303.01469, algorithm 1."""
    for i, t, t_next in steps_of(times):
        denoised = x - t * predict(x, t)
        on_step(Step(i, time_of(t), x, denoised))
        noise = torch.randn_like(x)  # also in the last step, where its weight is 0: seeded results depend on it
        x = (1 - t_next) * denoised + t_next * noise
    return x
