"""Euler's method."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor

from stable_audio_tools.families import SAMPLERS
from stable_audio_tools.sampling.samplers.base import Network, OnStep, Step, ignore


@SAMPLERS.register("euler", objectives=("rectified_flow", "rf_denoiser"), space="time", grid="log_snr")
def sample_euler(predict: Network, x: Tensor, times: Tensor, *, on_step: OnStep = ignore) -> Tensor:
    """``x += (t_next - t) v``: first order, exact on straight paths."""
    for i, (t, t_next) in enumerate(pairwise(times)):
        v = predict(x, t)
        on_step(Step(i, float(t), x, x - t * v))
        x = x + (t_next - t) * v
    return x
