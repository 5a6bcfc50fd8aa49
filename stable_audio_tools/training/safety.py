"""A loss or a gradient that is not finite: which batch, term or parameter it came from, and what is done about it."""

from __future__ import annotations

import functools
import logging
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.strategies import DDPStrategy, DeepSpeedStrategy
from torch import Tensor

from stable_audio_tools.checkpoint.kinds import some
from stable_audio_tools.errors import TrainingError

if TYPE_CHECKING:
    from stable_audio_tools.training.base import TrainingWrapper

logger = logging.getLogger(__name__)
POLICIES = ("stop", "skip", "rollback")
MOST_IN_A_ROW = 20  # batches without a finite loss, or steps without finite gradients: then it is not the batch
MOST_ROLLBACKS = 3  # to one checkpoint
MOST_NAMES = 64  # of items, in a message
ADVICE = "try a lower learning rate, --gradient-clip-val 1, or --precision bf16-mixed or 32"


class SkippedBatch(Exception):  # noqa: N818 - no error: what was asked for
    """Ends the training step of a batch that is left out."""


def guarded(step: Callable[..., Any]) -> Callable[..., Any]:
    """A ``training_step`` whose loss is looked at before anything is updated by it."""

    @functools.wraps(step)
    def training_step(self: TrainingWrapper, batch: Any, batch_idx: int) -> Any:
        guard = self.guard
        if guard.is_open:  # of a class that derives from one that is guarded already
            return step(self, batch, batch_idx)
        guard.open(batch)
        try:
            loss = step(self, batch, batch_idx)
            if self.automatic_optimization and isinstance(loss, Tensor):
                guard.check(self, loss)
        except SkippedBatch:
            return _nothing(self)
        finally:
            guard.close()
        return loss

    return training_step


def _nothing(wrapper: TrainingWrapper) -> Tensor | None:
    """What a skipped step returns. Several processes average gradients, so each must have some: zeros."""
    if not wrapper.automatic_optimization or wrapper.trainer.world_size == 1:
        return None
    return torch.stack([parameter.sum() * 0.0 for parameter in wrapper.parameters() if parameter.requires_grad]).sum()


class Guard:
    """Looks at the loss of every batch and the gradients of every step, in all processes alike.

    Attributes:
        policy: What to do about one that is not finite: one of `POLICIES`.
        num_skipped: Batches and steps left out so far.
        has_diverged: Whether it was the weights and not the data: they are not worth keeping.
    """

    def __init__(self) -> None:
        self.policy = "stop"
        self.num_skipped = 0
        self.is_open = False
        self._current: list[str] = []  # items of this batch
        self._items: deque[str] = deque(maxlen=MOST_NAMES)  # of all batches since the last step
        self._numbers: dict[str, Any] = {}
        self.has_diverged = False
        self._bad_losses = 0  # in a row
        self._bad_gradients: Counter[int] = Counter()  # in a row, by the id of the optimizer: players take turns
        self._rollbacks: dict[Path, int] = {}

    def open(self, batch: Any) -> None:
        """Begin a batch."""
        self.is_open, self._numbers = True, {}
        self._current = [*_names_of(batch)]
        self._items.extend(self._current)

    def close(self) -> None:
        """End a batch."""
        self.is_open, self._numbers = False, {}

    def note(self, numbers: Mapping[str, Any]) -> None:
        """Remember what a loss consists of, to name what is not finite."""
        if self.is_open:
            self._numbers.update(numbers)

    def check(self, wrapper: TrainingWrapper, loss: Tensor) -> None:
        """Go on if the loss is finite in all processes.

        Raises:
            SkippedBatch: If this batch is to be left out.
            TrainingError: If training cannot go on.
        """
        is_bad = not bool(torch.isfinite(loss).all())
        if not _is_anywhere(wrapper, is_bad):
            self._bad_losses = 0
            return
        self._bad_losses += 1
        told = self._describe_loss(wrapper, loss) if is_bad else "the loss of another process is not finite"
        self._deal_with(wrapper, told, self._bad_losses)
        raise SkippedBatch

    def check_gradients(self, wrapper: TrainingWrapper, optimizer: torch.optim.Optimizer) -> None:
        """Go on if the gradients that an optimizer is about to use are finite; otherwise take them away, so that it does nothing.

        A loss can be finite where its gradient is not. A scaler of gradients (16-mixed) meets that now and then, and leaves the step out
        itself; it only must not do so forever. ZeRO keeps gradients where nobody else sees them, so there they are not looked at.

        Raises:
            TrainingError: If training cannot go on.
        """
        if isinstance(wrapper.trainer.strategy, DeepSpeedStrategy):
            self._items.clear()
            return
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None and parameter.grad.numel()]
        is_bad = bool(gradients) and not are_finite(gradients)
        if not (is_bad if are_alike(wrapper.trainer) else _is_anywhere(wrapper, is_bad)):
            if gradients:
                self._bad_gradients.pop(id(optimizer), None)
            self._items.clear()
            return
        self._bad_gradients[id(optimizer)] += 1
        times = self._bad_gradients[id(optimizer)]
        has_scaler = getattr(wrapper.trainer.precision_plugin, "scaler", None) is not None
        if not has_scaler or times > MOST_IN_A_ROW:
            told = self._describe_gradients(wrapper, parameters) if is_bad else "a gradient in another process is not finite"
            self._deal_with(wrapper, told, times)
            for parameter in parameters:
                parameter.grad = None
        self._items.clear()

    # ---- what is done about it -------------------------------------------------------------------------------------------------------

    def _deal_with(self, wrapper: TrainingWrapper, told: str, times: int) -> None:
        """Do as the policy says about something that has happened so many times in a row."""
        broken = _first_broken_anywhere(wrapper)
        self.has_diverged = times > MOST_IN_A_ROW or broken is not None
        last = _last_checkpoint(wrapper)
        if self.policy == "stop" or times > MOST_IN_A_ROW or (broken is not None and self.policy == "skip"):
            raise TrainingError(f"{told}; {self._next(broken, last, times)}")
        if self.policy == "rollback":
            self._roll_back(wrapper, told, last)
        self.num_skipped += 1
        logger.warning("%s; skipped it (%d skipped so far)", told, self.num_skipped)

    def _describe_loss(self, wrapper: TrainingWrapper, loss: Tensor) -> str:
        numbers = {name: torch.as_tensor(value).detach() for name, value in self._numbers.items()}
        bad = [f"{name} is {float(value)}" for name, value in numbers.items() if not bool(torch.isfinite(value).all())]
        terms = f" ({', '.join(bad)})" if bad else ""
        return f"step {wrapper.global_step}: the loss is {float(loss.detach().float().mean())}{terms}{_of_batch(self._current)}"

    def _describe_gradients(self, wrapper: TrainingWrapper, parameters: Sequence[Tensor]) -> str:
        own = {id(parameter) for parameter in parameters if parameter.grad is not None}
        named = [(name, parameter.grad) for name, parameter in wrapper.named_parameters() if id(parameter) in own]
        bad = [name for name, gradient in named if gradient is not None and not bool(torch.isfinite(gradient).all())]
        which = f"gradients of {len(bad)} of {len(named)} parameters are" if len(bad) > 1 else "gradient of a parameter is"
        return f"step {wrapper.global_step}: the loss is finite, but the {which} not: {some(bad, 3)}{_of_batch(self._items)}"

    def _next(self, broken: str | None, last: Path | None, times: int) -> str:
        if broken is not None:
            saved = f"go back to {last} with --ckpt-path" if last is not None else "start again"
            return f"the weights are not finite any more ({broken}), so {saved}, and {ADVICE}"
        if times > MOST_IN_A_ROW:
            return f"that makes {times} batches in a row, so it is not the data; {ADVICE}"
        return f"the weights are finite still, so look at these files first; --on-nan skip leaves such batches out; or {ADVICE}"

    def _roll_back(self, wrapper: TrainingWrapper, told: str, last: Path | None) -> None:
        if last is None:
            raise TrainingError(f"{told}; --on-nan rollback has no checkpoint of this run to go back to yet; {ADVICE}")
        self._rollbacks[last] = self._rollbacks.get(last, 0) + 1
        if self._rollbacks[last] > MOST_ROLLBACKS:
            raise TrainingError(f"{told}; went back to {last} {MOST_ROLLBACKS} times already; {ADVICE}")
        trainer = wrapper.trainer
        checkpoint = trainer.strategy.checkpoint_io.load_checkpoint(last)
        wrapper.load_state_dict(checkpoint["state_dict"], strict=wrapper.strict_loading)  # that of an adapter lacks what never changes
        trainer.strategy.load_optimizer_state_dict(checkpoint)
        for config, state in zip(trainer.lr_scheduler_configs, checkpoint["lr_schedulers"], strict=True):
            config.scheduler.load_state_dict(state)
        self.has_diverged = False
        logger.warning("went back to the weights and optimizer states of %s; the next items are those that follow", last)


def _names_of(batch: Any) -> Iterator[str]:
    """Paths of a batch's items, as far as it has some."""
    metadata = batch[1] if isinstance(batch, Sequence) and len(batch) > 1 else ()
    for item in metadata if isinstance(metadata, Sequence) else ():
        if isinstance(item, Mapping):
            name = item.get("path") or item.get("relpath")
            if name is not None:
                yield str(name)


def _last_checkpoint(wrapper: TrainingWrapper) -> Path | None:
    trainer = wrapper._trainer
    found = [getattr(callback, "last_path", None) for callback in (trainer.callbacks if trainer is not None else ())]  # type: ignore[attr-defined]
    return next((path for path in found if path is not None), None)


def _is_anywhere(wrapper: TrainingWrapper, is_bad: bool) -> bool:
    """Whether something is so in one of the processes."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        return bool(wrapper.trainer.strategy.reduce_boolean_decision(is_bad, all=False))
    return is_bad


def are_alike(trainer: pl.Trainer) -> bool:
    """Whether all processes of a run have the same weights and gradients, so that they need not ask each other about them."""
    return trainer.world_size == 1 or type(trainer.strategy) is DDPStrategy


def are_finite(tensors: Sequence[Tensor]) -> bool:
    """Whether tensors hold neither infinity nor NaN. One pass through them, and one wait for their device.

    Sums of squares are a tenth of the work of largest magnitudes on a CPU; where one overflows, the latter decide.
    """
    given = list(tensors)
    return any(bool(torch.isfinite(torch.stack(torch._foreach_norm(given, order))).all()) for order in (2, torch.inf))


def first_broken(module: torch.nn.Module) -> str | None:
    """The name of a parameter that is not finite; None if there is none."""
    return next((name for name, value in module.named_parameters() if not bool(torch.isfinite(value).all())), None)


def _first_broken_anywhere(wrapper: TrainingWrapper) -> str | None:
    """`first_broken` of all processes, each of which may have a part of the weights only: they must do the same about it."""
    broken = first_broken(wrapper)
    if are_alike(wrapper.trainer) or not _is_anywhere(wrapper, broken is not None):
        return broken
    return broken or "those of another process"


def _of_batch(items: Collection[str]) -> str:
    return f"; its batch: {', '.join(items)}" if items else ""
