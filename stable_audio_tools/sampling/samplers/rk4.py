"""The classical Runge-Kutta method."""

from __future__ import annotations

from torch import Tensor

from stable_audio_tools.families import SAMPLERS
from stable_audio_tools.sampling.samplers.base import Network, OnStep, Step, ignore, steps_of, time_of

EARLIEST = 1e-5  # where the slope at the data is taken: at time 0 itself there is no noise left to tell it from


@SAMPLERS.register("rk4", objectives=("rectified_flow", "rf_denoiser"), space="time", grid="linear", per_item=True)
def sample_rk4(predict: Network, x: Tensor, times: Tensor, *, on_step: OnStep = ignore) -> Tensor:
    """Fourth order, with four network calls per step. Source: Kutta 1901."""
    for i, t, t_next in steps_of(times):
        dt = t_next - t
        k1 = predict(x, t)
        on_step(Step(i, time_of(t), x, x - t * k1))
        k2 = predict(x + dt / 2 * k1, t + dt / 2)
        k3 = predict(x + dt / 2 * k2, t + dt / 2)
        end = t_next.clamp(min=EARLIEST)
        k4 = predict(x + (end - t) * k3, end)
        x = x + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return x
