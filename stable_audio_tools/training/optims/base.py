"""What the optimizers of this package share.

An optimizer is registered under the ``"type"`` of configs. Its constructor's first parameter, ``params``, is given: parameters, pairs of
name and parameter, or groups of them with options of their own, as torch's optimizers take them. `step` leaves parameters without a
gradient alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from stable_audio_tools.families import OPTIMIZERS

Params = Any  # what torch.optim calls ParamsT: parameters, named parameters, or groups


class Optimizer(torch.optim.Optimizer):
    """An optimizer whose arithmetic is that of one group's `update`."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update every parameter that has a gradient; returns what ``closure`` does."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if parameters:
                self.update(group, parameters, [parameter.grad for parameter in parameters])
        return loss

    def update(self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor]) -> None:
        """Update the parameters of one group; ``gradients`` are read only."""
        raise NotImplementedError

    def states(self, parameters: list[Tensor], *names: str) -> Iterator[list[Tensor]]:
        """One list per name: that tensor of every parameter's state, zeros at first."""
        for parameter in parameters:
            state = self.state[parameter]
            for name in names:
                if name not in state:
                    state[name] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        for name in names:
            yield [self.state[parameter][name] for parameter in parameters]

    def count(self, parameters: list[Tensor]) -> dict[int, list[int]]:
        """Add one to each parameter's number of updates; indices of parameters by that number, which is mostly the same for all."""
        by_number: dict[int, list[int]] = {}
        for index, parameter in enumerate(parameters):
            state = self.state[parameter]
            state["step"] = int(state.get("step", 0)) + 1
            by_number.setdefault(state["step"], []).append(index)
        return by_number


def decay(parameters: list[Tensor], lr: float, weight_decay: float) -> None:
    """Decoupled weight decay."""
    if weight_decay:
        torch._foreach_mul_(parameters, 1 - lr * weight_decay)


def names_and_groups(params: Params) -> Iterator[tuple[dict[str, Any], list[tuple[str, Tensor]]]]:
    """What an optimizer was given, as groups: (options, [(name or "", parameter)])."""
    given = list(params)
    groups = given if given and isinstance(given[0], dict) else [{"params": given}]
    for group in groups:
        members: list[Any] = [group["params"]] if isinstance(group["params"], Tensor) else list(group["params"])
        named = [member if isinstance(member, tuple) else ("", member) for member in members]
        yield {key: value for key, value in group.items() if key != "params"}, named


__all__ = ["OPTIMIZERS", "Optimizer", "Params", "decay", "names_and_groups"]
