"""TrainingWrapper: what all training wrappers share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from stable_audio_tools.families import WRAPPERS
from stable_audio_tools.training.ema import EMA
from stable_audio_tools.training.losses.modules import LossModule
from stable_audio_tools.training.optims.schedule_free import averaged_iterates, start_training
from stable_audio_tools.training.parameters import frozen_parts
from stable_audio_tools.training.randomness import isolated_randomness, random_state, restore_random_state, seed_streams
from stable_audio_tools.training.safety import Guard, guarded

Batch = tuple[Tensor, Any]
VALIDATION_SEED = 42


class TrainingWrapper(pl.LightningModule):
    """A LightningModule around a model: losses, EMA and optimizers, which only training needs.

    Subclasses set ``model_prefix``, the name of the attribute that holds the model, and ``ema_prefix``, that of its EMA or None: state
    dicts of checkpoints are laid out by them. `frozen_modules` stay in eval mode whatever Lightning does.
    """

    model_prefix: str
    ema_prefix: str | None = None
    reproduced = "what the model makes of the batch"  # what `reproduction_error` measures

    def __init__(self) -> None:
        super().__init__()
        self.guard = Guard()
        self.has_random_parts = False  # whether each batch leaves out others of the parameters
        self.repeats_batch = False  # whether one batch is learnt by heart, with the same random numbers in every step
        self._random_state: dict[str, Any] | None = None
        self._validation = ExitStack()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "training_step" in vars(cls):
            cls.training_step = guarded(cls.training_step)  # type: ignore[method-assign]

    def frozen_modules(self) -> Iterator[nn.Module]:
        """Parts that training does not change."""
        yield from ()

    def train(self, mode: bool = True) -> TrainingWrapper:
        """Set the mode, but keep frozen parts in eval mode."""
        super().train(mode)
        self._rest()
        return self

    def _rest(self) -> None:
        """Put what is frozen into eval mode, also in an adversary."""
        for module in (*self.frozen_modules(), *frozen_parts(self)):
            module.eval()
        for module in self.modules():
            if isinstance(module, LossModule):  # its weight decays in training, also if all that is in it are fixed filters
                module.training = self.training

    @property
    def has_idle_parameters(self) -> bool:
        """Whether some steps leave trainable parameters without a gradient; processes that average gradients have to be told."""
        return self.has_random_parts

    @property
    def model(self) -> nn.Module:
        """The model that is trained."""
        return getattr(self, self.model_prefix)

    @property
    def ema(self) -> EMA | None:
        """Its moving average, if there is one."""
        return getattr(self, self.ema_prefix) if self.ema_prefix is not None else None

    @property
    def _ddp_params_and_buffers_to_ignore(self) -> list[str]:
        """Torch asks for this name: the average, which may be on the CPU, is each process's own, and need not be sent in every step."""
        if self.ema is None:
            return []
        return [name for name, _ in (*self.named_parameters(), *self.named_buffers()) if name.startswith(f"{self.ema_prefix}.")]

    @contextmanager
    def averaged(self) -> Iterator[nn.Module]:
        """The model with its averaged weights, in eval mode; the online weights come back on exit."""
        is_swapped = self.ema is not None and self.ema.on_cpu
        model = self.model if self.ema is None or is_swapped else self.ema.ema_model
        try:
            with self.ema.swapped() if self.ema is not None and is_swapped else nullcontext():
                yield model.eval()
        finally:
            self.train(self.training)

    # ---- told before the first step ----------------------------------------------------------------------------------------------

    def rehearsals(self, batch: Any) -> Sequence[Callable[[], Any]]:
        """Forward passes of steps that need other memory than the first one, to be measured before it. They leave no trace."""
        return ()

    # ---- one batch, learnt by heart ---------------------------------------------------------------------------------------------

    def begin_overfit(self, batch: Any) -> None:
        """Called once, before one batch is learnt by heart: what can be judged by no batch is left out of training from here on."""

    def logged_every(self, configured: int) -> int:
        """How many batches or steps are logged at once, as means: each by itself while one batch is learnt by heart."""
        return 1 if self.repeats_batch else configured

    def reproduction_error(self, batch: Any) -> Tensor:
        """How far the model is from a batch, with what a training step draws: 0 is the batch itself, 1 knows no more than its level.

        NaN if nothing of the batch counts.
        """
        raise NotImplementedError

    # ---- a loss or a gradient that is not finite ------------------------------------------------------------------------------------

    def log_dict(self, dictionary: Mapping[str, Any], *args: Any, **options: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Log numbers; those of a step are also what is named if its loss is not finite."""
        self.guard.note(dictionary)
        super().log_dict(dictionary, *args, **options)

    def manual_backward(self, loss: Tensor, *args: Any, **options: Any) -> None:
        """Backward, if the loss is finite."""
        self.guard.check(self, loss)
        super().manual_backward(loss, *args, **options)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Look at the gradients before they are used."""
        self.guard.check_gradients(self, optimizer)

    # ---- exact resumption: the streams that noise and timesteps are drawn from -------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the random state of every process, so that a resumed run draws what the uninterrupted one would have drawn."""
        checkpoint["random_state"] = of_every_process(random_state())

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Remember the random state until the first batch: what happens before it draws numbers too.

        A checkpoint of another program becomes one of ours, as far as it goes.
        """
        if "random_state" not in checkpoint and self._trainer is not None:
            from stable_audio_tools.training.foreign import adapt_in_place  # which imports this module

            adapt_in_place(checkpoint, self)
        self._random_state = of_this_process(checkpoint.get("random_state"))

    def on_train_start(self) -> None:
        """Let processes differ from here on: they have built the same model, but must not draw the same noise for their items.

        Schedule-free optimizers are told that training begins.
        """
        self._rest()  # Lightning leaves modes as they are, and they would be others until the first demo or validation than after it
        if self.global_rank and self._random_state is None:
            seed_streams(torch.initial_seed() + self.global_rank)
            self.renew_streams()
        start_training(self.trainer.optimizers)

    def renew_streams(self) -> None:
        """Draw anew what was drawn from the global streams when this was built, and should differ between processes."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Put the random state back, once."""
        if self._random_state is not None:
            restore_random_state(self._random_state)
            self._random_state = None

    def on_validation_start(self) -> None:
        """Validate with the same random numbers each time: its losses are comparable, and training goes on as if there were none."""
        self._validation.enter_context(isolated_randomness(VALIDATION_SEED))
        self._validation.enter_context(averaged_iterates(self.trainer.optimizers))

    def on_validation_end(self) -> None:
        """Give training its random numbers back."""
        self._validation.close()


class RunningMeans:
    """Means of logged numbers over several batches. What is on a device stays there until they are complete."""

    def __init__(self) -> None:
        self._sums: dict[str, Any] = {}
        self._count = 0

    def add(self, logs: Mapping[str, Any], every: int) -> dict[str, Any] | None:
        """Take the numbers of one batch; the means of the last ``every`` batches when there are so many, else None."""
        self._sums = {key: self._sums.get(key, 0.0) + value for key, value in logs.items()}
        self._count += 1
        if self._count < every:
            return None
        means = {key: value / self._count for key, value in self._sums.items()}
        self._sums, self._count = {}, 0
        return means


def of_every_process(state: Any) -> list[Any]:
    """States (plain data) of all processes of a run, by rank. To be called by all of them."""
    if not (dist.is_available() and dist.is_initialized()):
        return [state]
    states: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(states, state)
    return states


def of_this_process(states: Any) -> Any:
    """The state of this process in what `of_every_process` made; None, which starts afresh, if there were fewer processes."""
    states = states if isinstance(states, list) else [states]
    rank = dist.get_rank() if dist.is_available() and dist.is_initialized() else 0
    return states[rank] if rank < len(states) else None


def unbatch(batch: Any) -> Batch:
    """Audio or latents (B, C, T) and metadata, whatever loader made the batch."""
    reals, metadata = batch
    if reals.dim() == 4 and reals.shape[0] == 1:  # WebDataset loaders add a dimension
        reals = reals[0]
    if reals.dim() == 2:
        reals = reals[:, None]
    return reals, metadata


def padding_mask_of(metadata: Sequence[Mapping[str, Any]], length: int, device: torch.device) -> Tensor | None:
    """Which of ``length`` frames are audio and not padding: (B, length); None unless every item has a ``padding_mask``."""
    if not metadata or not all("padding_mask" in item for item in metadata):
        return None
    masks = [item["padding_mask"] for item in metadata]
    stacked = torch.stack([mask[0] if isinstance(mask, (list, tuple)) else mask for mask in masks]).float().to(device)
    return F.interpolate(stacked.view(len(masks), 1, -1), size=length, mode="nearest")[:, 0].bool()


__all__ = ["WRAPPERS", "Batch", "RunningMeans", "TrainingWrapper", "padding_mask_of", "unbatch"]
