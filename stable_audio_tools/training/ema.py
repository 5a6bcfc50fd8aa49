"""EMA: an exponential moving average of a model's weights, which usually sounds better than the weights themselves."""

from __future__ import annotations

import copy

import torch
from torch import nn


class EMA(nn.Module):
    """Keeps ``ema_model``, whose floating-point parameters and buffers follow those of a model.

    The decay warms up: ``1 - (1 + steps / inv_gamma) ** -power``, at most ``beta``. The first updates copy.

    Args:
        model: The model to follow. It is not a part of this module.
        beta: Largest decay.
        power: How quickly the decay grows; 3/4 suits 100,000s of steps, 2/3 a million.
        inv_gamma: Steps over which it grows.
        update_every: Average only every so many calls.
        update_after_step: Copy instead of averaging until then.
    """

    initted: torch.Tensor
    step: torch.Tensor

    def __init__(
        self,
        model: nn.Module,
        beta: float = 0.9999,
        power: float = 0.75,
        inv_gamma: float = 1.0,
        update_every: int = 1,
        update_after_step: int = 1,
    ) -> None:
        super().__init__()
        self._online = [model]  # in a list, so that it is not registered as a submodule
        self.ema_model = copy.deepcopy(model).eval().requires_grad_(False)
        self.beta, self.power, self.inv_gamma = beta, power, inv_gamma
        self.update_every, self.update_after_step = update_every, update_after_step
        self.register_buffer("initted", torch.zeros(1))
        self.register_buffer("step", torch.zeros(1, dtype=torch.int64))
        # What the two buffers hold, as far as it is known: reading them would wait for the GPU in every step.
        self._known: tuple[int, bool] | None = None
        self.register_load_state_dict_post_hook(lambda module, _: module.forget())

    def train(self, mode: bool = True) -> EMA:
        """Stays in eval mode."""
        return super().train(False)

    @property
    def decay(self) -> float:
        """Weight of the old average in the next update."""
        return self.decay_at(self._state()[0])

    def decay_at(self, step: int) -> float:
        """Weight of the old average after ``step`` calls of `update`."""
        epoch = max(step - self.update_after_step - 1, 0)
        if epoch == 0:
            return 0.0
        return min(max(1 - (1 + epoch / self.inv_gamma) ** -self.power, 0.0), self.beta)

    @torch.no_grad()
    def update(self) -> None:
        """Follow the model by one step. Call it before the optimizer's step, as published runs did."""
        step, is_initialised = self._state()
        self.step += 1
        self._known = step + 1, is_initialised
        if step % self.update_every:
            return
        averaged, online = self._pairs()
        if step <= self.update_after_step or not is_initialised:
            torch._foreach_copy_(averaged, online)
            is_initialised = step > self.update_after_step
            self.initted.fill_(float(is_initialised))
            self._known = step + 1, is_initialised
        if step > self.update_after_step:
            torch._foreach_lerp_(averaged, online, 1 - self.decay_at(step + 1))

    def forget(self) -> None:
        """Read ``step`` and ``initted`` again: they were written by someone else."""
        self._known = None

    def _state(self) -> tuple[int, bool]:
        """``step`` and ``initted``."""
        if self._known is None:
            self._known = int(self.step), bool(self.initted)
        return self._known

    def _pairs(self) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Matching floating-point tensors of the average and of the model; those that they share need no average."""
        averaged = [*self.ema_model.parameters(), *self.ema_model.buffers()]
        online = [*self._online[0].parameters(), *self._online[0].buffers()]
        pairs = [(a, o.detach().to(a.device)) for a, o in zip(averaged, online, strict=True) if a.is_floating_point() and a is not o]
        return [a for a, _ in pairs], [o for _, o in pairs]
