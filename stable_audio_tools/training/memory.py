"""What a run needs of the memory of a device, and what there is."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from stable_audio_tools.training.base import TrainingWrapper
from stable_audio_tools.training.inventory import own_average

STATES = {  # numbers per parameter; what is not here has two
    "SGD": 1.0, "ASGD": 1.0, "Lion": 1.0, "CLion": 1.0, "Muon": 1.0, "Adagrad": 1.0, "RMSprop": 1.0, "Prodigy": 4.0, "Adafactor": 0.1,
    "AdamW8bit": 0.5,
}  # fmt: skip


@dataclass(frozen=True)
class Memory:
    """What a run keeps in the memory of one device, in bytes.

    Attributes:
        weights: All that is on the device, trained or not.
        gradients: One number per trained parameter.
        optimizer: Averages that the optimizer keeps.
        average: The moving average of the weights.
        activations: The most that a forward pass has at a time besides; 0 as long as nobody has measured it.
    """

    weights: int
    gradients: int
    optimizer: int
    average: int
    activations: int = 0

    @property
    def total(self) -> int:
        """All together."""
        return self.weights + self.gradients + self.optimizer + self.average + self.activations

    def __str__(self) -> str:
        return " + ".join(f"{name} {size(value)}" for name, value in vars(self).items() if value) + f" = {size(self.total)}"


def size(num_bytes: float) -> str:
    """A number of bytes as people read it.

    >>> size(1_500_000_000), size(2_000)
    ('1.50 GB', '0.002 MB')
    """
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.{1 if num_bytes >= 1e6 else 3}f} MB"


def memory_of(wrapper: TrainingWrapper, optimizers: Iterable[torch.optim.Optimizer] | None = None) -> Memory:
    """What a run keeps in memory, but for activations.

    Args:
        wrapper: What is trained.
        optimizers: Its optimizers; None counts two numbers per trained parameter, as Adam has them.
    """
    average = num_bytes_of(own_average(wrapper)) if wrapper.ema is not None else 0
    if optimizers is None:
        trained = [parameter for parameter in wrapper.parameters() if parameter.requires_grad]
        states = 2.0 * num_bytes_of(trained)
    else:  # also of the player that rests while the other one has its turn
        optimizers = list(optimizers)
        trained = [parameter for optimizer in optimizers for group in optimizer.param_groups for parameter in group["params"]]
        states = sum(states_of(optimizer) for optimizer in optimizers)
    everything = num_bytes_of([*wrapper.parameters(), *wrapper.buffers()])
    on_cpu = wrapper.ema is not None and wrapper.ema.on_cpu
    return Memory(everything - average, num_bytes_of(trained), int(states), 0 if on_cpu else average)


def states_of(optimizer: Any) -> float:
    """What an optimizer will keep, in bytes."""
    optimizer = getattr(optimizer, "optimizer", optimizer)
    name, total = type(optimizer).__name__, 0.0
    for group in optimizer.param_groups:
        factor = 1.0 if group.get("kind") == "muon" else STATES.get(name, 2.0)
        total += factor * num_bytes_of(group["params"]) * (0 if name == "SGD" and not group.get("momentum") else 1)
    return total


def num_bytes_of(tensors: Iterable[Tensor]) -> int:
    """What tensors take, in bytes."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def available_memory(device: torch.device) -> tuple[int, str] | None:
    """What this process may have of a device's memory, with what it has already, and what the device is called; None if unknown."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device), torch.cuda.get_device_name(device)
    if device.type == "mps":
        return torch.mps.recommended_max_memory(), "the GPU"
    facts = _table("/proc/meminfo")
    if "MemAvailable" in facts:
        return facts["MemAvailable"] + _table("/proc/self/status").get("VmRSS", 0), "this machine"
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), "this machine"
    return None


def _table(path: str) -> Mapping[str, int]:
    """Numbers of a file in /proc, in bytes."""
    try:
        rows = [line.split() for line in Path(path).read_text(encoding="utf-8").splitlines() if line.endswith(" kB")]
    except OSError:
        return {}
    return {row[0].rstrip(":"): int(row[1]) * 1024 for row in rows}


class Activations(TorchDispatchMode):
    """Counts the bytes of tensors that are made while it is open: those that are there, and the most that were there at a time.

    Tensors are counted wherever they come from, so also what is freed before the backward pass, as a frozen autoencoder's layers are, and
    what recomputing keeps. Not counted is what an operation needs for itself.

    Attributes:
        num_bytes: Of those that are there.
        most: The most that this was.
    """

    def __init__(self) -> None:
        super().__init__()
        self.num_bytes = self.most = 0
        self._counted: set[int] = set()

    def __torch_dispatch__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and count what it has made."""
        result = func(*args, **(kwargs or {}))
        before = {_storage(tensor)._cdata for tensor in tree_leaves((args, kwargs)) if _is_plain(tensor)}
        for tensor in tree_leaves(result):
            if _is_plain(tensor):
                self._count(_storage(tensor), before)
        return result

    def _count(self, storage: torch.UntypedStorage, before: set[int]) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in before or key in self._counted:
            return
        self._counted.add(key)
        weakref.finalize(storage, self._forget, key, size).atexit = False
        self.num_bytes += size
        self.most = max(self.most, self.num_bytes)

    def _forget(self, key: int, size: int) -> None:
        self._counted.discard(key)
        self.num_bytes -= size


def _storage(tensor: Tensor) -> torch.UntypedStorage:
    return tensor.untyped_storage()


def _is_plain(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided
