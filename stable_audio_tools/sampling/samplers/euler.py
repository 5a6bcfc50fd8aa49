"""Euler's method."""

from __future__ import annotations

from torch import Tensor

from stable_audio_tools.families import SAMPLERS
from stable_audio_tools.sampling.samplers.base import Network, OnStep, Step, ignore, steps_of, time_of


@SAMPLERS.register("euler", objectives=("rectified_flow", "rf_denoiser"), space="time", grid="log_snr", per_item=True)
def sample_euler(predict: Network, x: Tensor, times: Tensor, *, on_step: OnStep = ignore) -> Tensor:
    """``x += (t_next - t) v``: first order, exact on straight paths."""
    for i, t, t_next in steps_of(times):
        v = predict(x, t)
        on_step(Step(i, time_of(t), x, x - t * v))
        x = x + (t_next - t) * v
    return x
