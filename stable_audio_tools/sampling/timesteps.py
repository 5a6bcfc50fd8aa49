"""Which times t a training step looks at."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from stable_audio_tools.config.base import NonNegativeFloat, PositiveInt
from stable_audio_tools.families import TIMESTEPS


class TimestepSampler:
    """The contract: called with a batch size, returns times (B,) in [0, 1]. May keep state (`state_dict`)."""

    def __call__(self, batch_size: int, *, device: torch.device | str = "cpu") -> Tensor:
        """Draw ``batch_size`` times."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, int]:
        """What is needed to go on with the same sequence."""
        return {}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where `state_dict` was taken."""


@TIMESTEPS.register("uniform")
class UniformTimesteps(TimestepSampler):
    """Uniform in [0, 1], from a scrambled Sobol sequence: evenly spread within and across batches.

    The scramble is drawn from torch's global CPU stream when this is built.
    """

    def __init__(self) -> None:
        self.seed = int(torch.randint(2**31 - 1, ()))
        self.engine: Any = torch.quasirandom.SobolEngine(1, scramble=True, seed=self.seed)

    def __call__(self, batch_size: int, *, device: torch.device | str = "cpu") -> Tensor:
        return self.engine.draw(batch_size)[:, 0].to(device)

    def state_dict(self) -> dict[str, int]:
        return {"seed": self.seed, "drawn": self.engine.num_generated}

    def load_state_dict(self, state: dict[str, int]) -> None:
        if not state:
            return
        self.seed = state["seed"]
        self.engine = torch.quasirandom.SobolEngine(1, scramble=True, seed=self.seed)
        if state["drawn"]:
            self.engine.fast_forward(state["drawn"])


@TIMESTEPS.register("logit_normal")
class LogitNormalTimesteps(TimestepSampler):
    """``sigmoid(z)`` with z ~ N(0, 1): the middle of the path more often. Source: Esser et al. 2024, arXiv:2403.03206."""

    def __call__(self, batch_size: int, *, device: torch.device | str = "cpu") -> Tensor:
        return torch.sigmoid(torch.randn(batch_size, device=device))


@TIMESTEPS.register("trunc_logit_normal")
class TruncatedLogitNormalTimesteps(TimestepSampler):
    """A logit-normal cut off at 0.075 and stretched to [0, 1], then flipped: noisy times more often, pure data never."""

    def __call__(self, batch_size: int, *, device: torch.device | str = "cpu") -> Tensor:
        return (1 - truncated_logistic_normal_rescaled([batch_size])).to(device)


def truncated_logistic_normal_rescaled(shape: Sequence[int] | int, left_trunc: float = 0.075, right_trunc: float = 1.0) -> Tensor:
    """Draw from ``sigmoid(z)``, z ~ N(0, 1), cut off outside [left_trunc, right_trunc] and stretched to [0, 1]."""
    low, high = (_normal_cdf(torch.logit(torch.tensor(bound))) for bound in (left_trunc, right_trunc))
    quantile = low + (high - low) * _normal_cdf(torch.randn(shape))
    normal = math.sqrt(2) * torch.erfinv((2 * quantile - 1).clamp(-1 + 1e-7, 1 - 1e-7))
    return (torch.sigmoid(normal) - left_trunc) / (right_trunc - left_trunc)


@TIMESTEPS.register("log_snr")
class LogSNRTimesteps(TimestepSampler):
    """Times whose log signal-to-noise ratio is Gaussian: ``t = sigmoid(-(mean + std z))``.

    Args:
        mean_logsnr: Mean of the log-SNR.
        std_logsnr: Its standard deviation.
    """

    def __init__(self, mean_logsnr: float = -1.2, std_logsnr: NonNegativeFloat = 2.0) -> None:
        super().__init__()
        self.mean_logsnr = mean_logsnr
        self.std_logsnr = std_logsnr

    def __call__(self, batch_size: int, *, device: torch.device | str = "cpu") -> Tensor:
        logsnr = torch.randn(batch_size) * self.std_logsnr + self.mean_logsnr
        return torch.sigmoid(-logsnr).clamp(1e-4, 1 - 1e-4).to(device)


@TIMESTEPS.register("log_snr_uniform")
class UniformLogSNRTimesteps(TimestepSampler):
    """Times whose log signal-to-noise ratio is uniform between two bounds: ``t = sigmoid(-U)``.

    Args:
        min_logsnr: Lower bound: the noisiest time.
        max_logsnr: Upper bound: the cleanest.
    """

    def __init__(self, min_logsnr: float = -6.0, max_logsnr: float = 5.0) -> None:
        super().__init__()
        self.min_logsnr = min_logsnr
        self.max_logsnr = max_logsnr

    def __call__(self, batch_size: int, *, device: torch.device | str = "cpu") -> Tensor:
        logsnr = self.min_logsnr + (self.max_logsnr - self.min_logsnr) * torch.rand(batch_size)
        return torch.sigmoid(-logsnr).clamp(1e-4, 1 - 1e-4).to(device)


@TIMESTEPS.register("logsnr_uniform")
class UniformLogSNRToTwoTimesteps(UniformLogSNRTimesteps):
    """As ``log_snr_uniform``, but up to a log-SNR of 2, where generation by flows takes its last step.

    Args:
        min_logsnr: Lower bound: the noisiest time.
        max_logsnr: Upper bound: the cleanest.
    """

    def __init__(self, min_logsnr: float = -6.0, max_logsnr: float = 2.0) -> None:
        super().__init__(min_logsnr, max_logsnr)


@TIMESTEPS.register("one_shot")
class OneShotTimesteps(TimestepSampler):
    """Always pure noise: a model that makes everything in one step."""

    def __call__(self, batch_size: int, *, device: torch.device | str = "cpu") -> Tensor:
        return torch.ones(batch_size, device=device)


@TIMESTEPS.register("denoised")
class DenoisedTimesteps(TimestepSampler):
    """Always pure data: an adversary that sees what was made as it is."""

    def __call__(self, batch_size: int, *, device: torch.device | str = "cpu") -> Tensor:
        return torch.zeros(batch_size, device=device)


@TIMESTEPS.register("congruent")
class CongruentTimesteps(TimestepSampler):
    """Times that a generation of few evenly spaced steps visits: a random number of steps, then one of them.

    Args:
        step_counts: Numbers of steps to choose from.
    """

    def __init__(self, step_counts: Sequence[PositiveInt] = (1, 2, 4, 8, 16)) -> None:
        super().__init__()
        self.step_counts = torch.tensor(list(step_counts))

    def __call__(self, batch_size: int, *, device: torch.device | str = "cpu") -> Tensor:
        steps = self.step_counts[torch.randint(len(self.step_counts), (batch_size,))]
        position = (torch.rand(batch_size) * steps).long()
        return (1 - position / steps).to(device)


def _normal_cdf(x: Tensor) -> Tensor:
    return 0.5 * (1 + torch.erf(x / math.sqrt(2)))
