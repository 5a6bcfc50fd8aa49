"""Facts about a module's parameters."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

_building = threading.local()


def dtype_of(module: nn.Module, default: torch.dtype = torch.float32) -> torch.dtype:
    """Data type of a module's first floating-point parameter or buffer; ``default`` if it has none (a fixed transform)."""
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            return tensor.dtype
    return default


def without_autocast(device: torch.device | str) -> AbstractContextManager[Any]:
    """Compute in the data types that tensors have, whatever ``torch.autocast`` around says. Also on ``meta``, which knows no autocast."""
    kind = torch.device(device).type
    return nullcontext() if kind == "meta" else torch.autocast(kind, enabled=False)


def halve_parameters(module: nn.Module) -> None:
    """Multiply all parameters by 0.5: how several published networks start training."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(0.5)


def count_parameters(module: nn.Module, *, trainable_only: bool = False) -> int:
    """Number of parameters, shared ones once."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trainable_only)


@contextmanager
def without_weights() -> Iterator[None]:
    """Build modules whose parameters have shapes but no memory (device ``meta``), to be given weights by ``load_state_dict(assign=True)``.

    Unlike inside ``torch.device("meta")``, buffers are real: those that no state dict holds (tables of positions, filters) could not be
    filled in afterwards by modules that are not `Tables`. Affects the calling thread only.
    """
    outer = getattr(_building, "without_weights", False)
    _building.without_weights = True
    _hook.enter()
    try:
        with torch.device("cpu") if torch.get_default_device().type == "meta" else nullcontext():
            yield
    finally:
        _hook.leave()
        _building.without_weights = outer


class _RegistrationHook:
    """Puts parameters of threads that build without weights on ``meta``; installed while there is such a thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._num_users = 0

    def enter(self) -> None:
        with self._lock:
            if self._num_users == 0:
                register = nn.Module.register_parameter

                def register_on_meta(module: nn.Module, name: str, param: nn.Parameter | None) -> None:
                    if param is not None and not param.is_meta and getattr(_building, "without_weights", False):
                        param = nn.Parameter(param.to("meta"), requires_grad=param.requires_grad)
                    register(module, name, param)

                self._original = register
                nn.Module.register_parameter = register_on_meta  # pyright: ignore[reportAttributeAccessIssue]
            self._num_users += 1

    def leave(self) -> None:
        with self._lock:
            self._num_users -= 1
            if self._num_users == 0:
                nn.Module.register_parameter = self._original  # pyright: ignore[reportAttributeAccessIssue]


_hook = _RegistrationHook()


def is_without_weights() -> bool:
    """Whether modules are being built without weights: in `without_weights` or ``torch.device("meta")``. Reading files is then a waste."""
    return getattr(_building, "without_weights", False) or torch.get_default_device().type == "meta"
