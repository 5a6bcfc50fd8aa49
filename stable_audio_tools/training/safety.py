"""A loss that is not finite: which batch and term it came from, and what is done about it."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from stable_audio_tools.errors import TrainingError

if TYPE_CHECKING:
    from stable_audio_tools.training.base import TrainingWrapper

logger = logging.getLogger(__name__)
POLICIES = ("stop", "skip", "rollback")
MOST_IN_A_ROW = 20  # batches without a finite loss: then it is not the batch
MOST_ROLLBACKS = 3  # to one checkpoint
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
    """Looks at the loss of every batch, in all processes alike.

    Attributes:
        policy: What to do about one that is not finite: one of `POLICIES`.
        num_skipped: Batches left out so far.
    """

    def __init__(self) -> None:
        self.policy = "stop"
        self.num_skipped = 0
        self.is_open = False
        self._batch: Any = None
        self._numbers: dict[str, Any] = {}
        self._in_a_row = 0
        self._rollbacks: dict[Path, int] = {}

    def open(self, batch: Any) -> None:
        """Begin a step."""
        self.is_open, self._batch, self._numbers = True, batch, {}

    def close(self) -> None:
        """End a step."""
        self.is_open, self._batch, self._numbers = False, None, {}

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
        is_anywhere = is_bad
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            is_anywhere = wrapper.trainer.strategy.reduce_boolean_decision(is_bad, all=False)
        if not is_anywhere:
            self._in_a_row = 0
            return
        told = self._describe(wrapper, loss) if is_bad else "the loss of another process is not finite"
        broken = next((name for name, value in wrapper.named_parameters() if not bool(torch.isfinite(value).all())), None)
        self._in_a_row += 1
        last = _last_checkpoint(wrapper)
        if self.policy == "stop" or self._in_a_row > MOST_IN_A_ROW or (broken is not None and self.policy == "skip"):
            raise TrainingError(f"{told}; {self._next(broken, last)}")
        if self.policy == "rollback":
            self._roll_back(wrapper, told, last)
        self.num_skipped += 1
        logger.warning("%s; skipped it (%d skipped so far)", told, self.num_skipped)
        raise SkippedBatch

    def _describe(self, wrapper: TrainingWrapper, loss: Tensor) -> str:
        numbers = {name: torch.as_tensor(value).detach() for name, value in self._numbers.items()}
        bad = [f"{name} is {float(value)}" for name, value in numbers.items() if not bool(torch.isfinite(value).all())]
        terms = f" ({', '.join(bad)})" if bad else ""
        items = list(_names_of(self._batch))
        batch = f"; its batch: {', '.join(items)}" if items else ""
        return f"step {wrapper.global_step}: the loss is {float(loss.detach().float().mean())}{terms}{batch}"

    def _next(self, broken: str | None, last: Path | None) -> str:
        if broken is not None:
            saved = f"go back to {last} with --ckpt-path" if last is not None else "start again"
            return f"the weights are not finite any more ({broken}), so {saved}, and {ADVICE}"
        if self._in_a_row > MOST_IN_A_ROW:
            return f"this is the {self._in_a_row}th batch in a row, so it is not the data; {ADVICE}"
        return f"the weights are finite still, so look at these files first; --on-nan skip leaves such batches out; or {ADVICE}"

    def _roll_back(self, wrapper: TrainingWrapper, told: str, last: Path | None) -> None:
        if last is None:
            raise TrainingError(f"{told}; --on-nan rollback has no checkpoint of this run to go back to yet; {ADVICE}")
        self._rollbacks[last] = self._rollbacks.get(last, 0) + 1
        if self._rollbacks[last] > MOST_ROLLBACKS:
            raise TrainingError(f"{told}; went back to {last} {MOST_ROLLBACKS} times already; {ADVICE}")
        trainer = wrapper.trainer
        checkpoint = trainer.strategy.checkpoint_io.load_checkpoint(last)
        wrapper.load_state_dict(checkpoint["state_dict"])
        trainer.strategy.load_optimizer_state_dict(checkpoint)
        for config, state in zip(trainer.lr_scheduler_configs, checkpoint["lr_schedulers"], strict=True):
            config.scheduler.load_state_dict(state)
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
