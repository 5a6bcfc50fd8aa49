"""What a run will take, told before its first step: parameters, memory, disk, and, after 20 steps, time."""

from __future__ import annotations

import logging
import math
import os
import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.training.base import TrainingWrapper
from stable_audio_tools.training.inventory import own_average
from stable_audio_tools.training.options import TrainOptions

logger = logging.getLogger(__name__)
SMALLER = "a smaller --batch-size with more --accum-batches, --gradient-checkpointing, the optimizer AdamW8bit, or --precision bf16-mixed"
TIMED_STEPS = 20
STATES = {"SGD": 1.0, "Lion": 1.0, "CLion": 1.0, "Muon": 1.0, "Adagrad": 1.0, "RMSprop": 1.0, "Adafactor": 0.1, "AdamW8bit": 0.5}
FEWER = "keep fewer with --save-top-k, save less often with --checkpoint-every, or save elsewhere with --save-dir"


@dataclass(frozen=True)
class Memory:
    """What a run keeps in the memory of one device, in bytes.

    Attributes:
        weights: All that is on the device, trained or not.
        gradients: One number per trained parameter.
        optimizer: Averages that the optimizer keeps.
        average: The moving average of the weights.
        activations: What the backward pass needs of the forward pass; 0 as long as nobody has measured it.
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


def duration(seconds: float) -> str:
    """Seconds as people read them.

    >>> duration(42), duration(5400), duration(200_000)
    ('42 s', '90 min', '2 d 8 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    hours = round(seconds / 3600)
    return f"{hours} h" if hours < 48 else f"{hours // 24} d {hours % 24} h"


# ---- memory ------------------------------------------------------------------------------------------------------------------------------


def memory_of(wrapper: TrainingWrapper, optimizers: Iterable[torch.optim.Optimizer] | None = None) -> Memory:
    """What a run keeps in memory, but for activations.

    Args:
        wrapper: What is trained.
        optimizers: Its optimizers; None counts two numbers per trained parameter, as Adam has them.
    """
    average = _bytes(own_average(wrapper)) if wrapper.ema is not None else 0
    if optimizers is None:
        trained = [parameter for parameter in wrapper.parameters() if parameter.requires_grad]
        states = 2.0 * _bytes(trained)
    else:  # also of the player that rests while the other one has its turn
        optimizers = list(optimizers)
        trained = [parameter for optimizer in optimizers for group in optimizer.param_groups for parameter in group["params"]]
        states = sum(_states_of(optimizer) for optimizer in optimizers)
    everything = _bytes([*wrapper.parameters(), *wrapper.buffers()])
    on_cpu = wrapper.ema is not None and wrapper.ema.on_cpu
    return Memory(everything - average, _bytes(trained), int(states), 0 if on_cpu else average)


def _states_of(optimizer: Any) -> float:
    """Bytes of what an optimizer keeps."""
    optimizer = getattr(optimizer, "optimizer", optimizer)
    name, total = type(optimizer).__name__, 0.0
    for group in optimizer.param_groups:
        factor = 1.0 if group.get("kind") == "muon" else STATES.get(name, 2.0)
        total += factor * _bytes(group["params"]) * (0 if name == "SGD" and not group.get("momentum") else 1)
    return total


def _bytes(tensors: Iterable[Tensor]) -> int:
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


class Activations:
    """Counts the bytes that a forward pass keeps for the backward pass, while it is open."""

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        self._seen = {parameter.untyped_storage().data_ptr() for parameter in parameters}
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._count, lambda tensor: tensor)
        self.num_bytes = 0

    def _count(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._seen:
            self._seen.add(storage.data_ptr())
            self.num_bytes += storage.nbytes()
        return tensor

    def __enter__(self) -> Activations:
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._hooks.__exit__(*error)


# ---- disk --------------------------------------------------------------------------------------------------------------------------------


def checkpoint_bytes(wrapper: TrainingWrapper, state_dict: Mapping[str, Tensor] | None = None) -> int:
    """About how large a checkpoint will be; ``state_dict`` if it does not hold all of the wrapper's."""
    return _bytes((wrapper.state_dict() if state_dict is None else state_dict).values()) + memory_of(wrapper).optimizer


def disk_line(options: TrainOptions, each: int, folder: Path, start: int = 0) -> str:
    """How much disk checkpoints will take.

    Args:
        options: Of the run.
        each: Bytes of a checkpoint.
        folder: Where they go.
        start: Step that the run begins at.

    Raises:
        ConfigError: If they do not fit, unless forced.
    """
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    kept = options.save_top_k if options.save_top_k > 0 else None
    if options.max_steps > 0:
        written = max(1, math.ceil((options.max_steps - start) / options.checkpoint_every))
        kept = written if kept is None else min(kept, written)
    total = each * ((kept or 1) + options.save_best)
    count = f"{kept + options.save_best} of them, {size(total)}" if kept is not None else "all of them are kept"
    text = f"checkpoints: {size(each)} each; {count}; {size(free)} free in {there}"
    needed = total + each  # one more while a new one takes the place of an old one
    if needed > free and not options.force:
        raise ConfigError(f"{text}: they need {size(needed)}; {FEWER}; or --force")
    return text


def pass_line(options: TrainOptions, num_batches: int, num_processes: int) -> str:
    """What a pass through the data is made of.

    Args:
        options: Of the run.
        num_batches: Of all processes.
        num_processes: That share them.
    """
    text = f"{num_batches} batches of {options.batch_size} per pass"
    per_step = options.accum_batches * num_processes
    return text if per_step == 1 else f"{text}, {per_step} of which make a step: {math.ceil(num_batches / per_step)} steps"


# ---- while the run begins ---------------------------------------------------------------------------------------------------------------


class Preflight(pl.Callback):
    """Measures the first forward pass, and says before the first step what memory the run takes; after 20 steps, what time is left.

    Args:
        options: Of the run.
        report: File that the lines are added to.
    """

    def __init__(self, options: TrainOptions, report: Path) -> None:
        super().__init__()
        self.options, self.report = options, report
        self._counting: Activations | None = None
        self._measured = 0
        self._is_told = False
        self._begun: tuple[int, float] | None = None
        self._is_timed = False

    def say(self, line: str) -> None:
        """To the log and to the report."""
        logger.info(line)
        self.report.parent.mkdir(parents=True, exist_ok=True)
        with self.report.open("a", encoding="utf-8") as stream:
            stream.write(line + "\n")

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        """Count what the first forward pass keeps; the time is taken from the second batch on."""
        if not self._is_told and not self.options.compile:
            self._counting = Activations(pl_module.parameters()).__enter__()
        elif self._begun is None:
            self._begun = trainer.global_step, time.monotonic()

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        """Say what memory the run takes, before anything is updated.

        Raises:
            ConfigError: If there is not enough, unless forced.
        """
        self._stop_counting()
        if self._is_told or not isinstance(pl_module, TrainingWrapper):
            return
        self._is_told = True
        memory = replace(memory_of(pl_module, trainer.optimizers), activations=self._measured)
        there = available_memory(pl_module.device)
        is_spread = self.options.strategy.startswith(("fsdp", "deepspeed"))
        if there is None or is_spread:
            line = f"memory, {'spread over all devices' if is_spread else 'per device'}: {memory}"
        else:
            line = f"memory: {memory} of {size(there[0])} that {there[1]} has for this run"
        if trainer.is_global_zero:
            self.say(line)
        is_too_much = there is not None and not is_spread and memory.total > there[0] and not self.options.force
        if trainer.world_size > 1:
            is_too_much = trainer.strategy.reduce_boolean_decision(is_too_much, all=False)
        if is_too_much:
            raise ConfigError(f"{line}: it will not fit; try {SMALLER}; or --force")

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Say how long the run will take, once."""
        self._stop_counting()
        if self._begun is None or self._is_timed or trainer.global_step - self._begun[0] < TIMED_STEPS or not trainer.is_global_zero:
            return
        self._is_timed = True
        each = (time.monotonic() - self._begun[1]) / (trainer.global_step - self._begun[0])
        left = trainer.max_steps - trainer.global_step
        rest = f"; {left} steps are left: about {duration(left * each)}" if left > 0 else ""
        batches = trainer.num_training_batches
        if trainer.max_steps < 0 and batches != float("inf"):
            rest = f"; a pass takes about {duration(math.ceil(batches / self.options.accum_batches) * each)}"
        self.say(f"{each:.3g} s per step{rest}")

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leave nothing behind."""
        self._stop_counting()

    def _stop_counting(self) -> None:
        if self._counting is not None:
            self._counting.__exit__(None, None, None)
            self._measured, self._counting = self._counting.num_bytes, None
