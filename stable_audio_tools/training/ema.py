"""EMA: an exponential moving average of a model's weights, which usually sounds better than the weights themselves."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

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

    on_cpu = False
    whole_model: Callable[[], AbstractContextManager[Any]] = staticmethod(nullcontext)  # gathers a model that is spread over devices
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

    def configure(self, *, on_cpu: bool = False, **options: float | int) -> None:
        """Change options of the constructor; ``on_cpu`` keeps the average there, wherever the model is."""
        self.on_cpu = on_cpu
        for name, value in options.items():
            setattr(self, name, value)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> EMA:
        """Move to a device or type, but for an average that stays on the CPU."""
        if not self.on_cpu:
            return super()._apply(fn, recurse)
        average = self._modules.pop("ema_model")
        try:
            return super()._apply(fn, recurse)
        finally:
            self._modules["ema_model"] = average

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """While it is open, the model has the averaged weights."""
        pairs = list(self._tensors())
        kept = [online.detach().clone() for _, online in pairs]
        try:
            with torch.no_grad():
                for average, online in pairs:
                    online.copy_(average)
            yield
        finally:
            with torch.no_grad():
                for (_, online), before in zip(pairs, kept, strict=True):
                    online.copy_(before)

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
        with self.whole_model():
            is_initialised = self._follow(step, is_initialised)
        self._known = step + 1, is_initialised

    def _follow(self, step: int, is_initialised: bool) -> bool:
        """One update; whether the average is initialised."""
        averaged, online = self._pairs()
        if step <= self.update_after_step or not is_initialised:
            torch._foreach_copy_(averaged, online)
            is_initialised = step > self.update_after_step
            self.initted.fill_(float(is_initialised))
        if step > self.update_after_step:
            torch._foreach_lerp_(averaged, online, 1 - self.decay_at(step + 1))
        return is_initialised

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
        pairs = list(self._tensors())
        return [average for average, _ in pairs], [online.detach().to(average.device) for average, online in pairs]

    def _tensors(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        averaged = [*self.ema_model.parameters(), *self.ema_model.buffers()]
        online = [*self._online[0].parameters(), *self._online[0].buffers()]
        return ((a, o) for a, o in zip(averaged, online, strict=True) if a.is_floating_point() and a is not o)
