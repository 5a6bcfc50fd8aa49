"""AlternatingWrapper: training with several optimizers that take turns, such as an autoencoder's and its adversary's."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.training.base import RunningMeans, TrainingWrapper
from stable_audio_tools.training.safety import SkippedBatch

Terms = dict[str, Tensor]  # weighted loss terms, by name
GENERATOR, DISCRIMINATOR = 0, 1  # players, by index of their optimizer


class AlternatingWrapper(TrainingWrapper):
    """A wrapper whose optimizers take turns, one step each. Lightning leaves accumulation and clipping to such wrappers.

    Attributes:
        accum_batches: Batches whose gradients make one step; all of them are the same player's.
        gradient_clip_val: Largest norm of a player's gradient; 0 does not clip.
        log_every_n_steps: Steps of a player whose means are logged at once.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.automatic_optimization = False
        self.accum_batches = 1
        self.gradient_clip_val = 0.0
        self.log_every_n_steps = 1
        self._window: dict[str, Any] = {}  # means of what is logged over the batches of a step
        self._means = {GENERATOR: RunningMeans(), DISCRIMINATOR: RunningMeans()}

    def play(
        self,
        player: int,
        batch_idx: int,
        terms_of: Callable[[], tuple[Terms, dict[str, Any]]],
        others_rest: AbstractContextManager[Any] | None = None,
    ) -> Tensor:
        """A batch for one player, and its optimizer's step if it is the last of ``accum_batches``.

        Args:
            player: Whose turn it is.
            batch_idx: Of the pass.
            terms_of: Computes the loss terms, and what else is to be logged.
            others_rest: Holds while they are computed and until after the backward pass, which may compute parts of them again.

        Returns:
            The loss ().
        """
        optimizer = listed(self.optimizers())[player]
        is_last = (batch_idx + 1) % self.accum_batches == 0 or self.trainer.is_last_batch
        if not self._window:
            optimizer.zero_grad()
        with others_rest or nullcontext():
            terms, logs = terms_of()
            loss = torch.stack([term.float() for term in terms.values()]).sum()
            self.guard.note({f"train/{name}": term for name, term in terms.items()})
            try:
                self.manual_backward(loss / self.accum_batches)
            except SkippedBatch:
                self._leave_out(player, optimizer, is_last=is_last)
                raise
        logs |= {f"train/{name}": term.detach() for name, term in terms.items()}
        if player == GENERATOR:
            logs["train/loss"] = loss.detach()
        for name, value in logs.items():
            self._window[name] = self._window.get(name, 0.0) + value / self.accum_batches
        if is_last:
            self._step(player, optimizer)
        self.log("loss", loss.detach(), prog_bar=True, logger=False)
        return loss.detach()

    def _leave_out(self, player: int, optimizer: Any, *, is_last: bool) -> None:
        """After a batch that is skipped: the others of its step still count, unless their gradients are of weights that are gone."""
        if self.guard.policy == "rollback":
            self._window = {}
        elif is_last and self._window:
            self._step(player, optimizer)

    def _step(self, player: int, optimizer: Any) -> None:
        if player == GENERATOR and self.ema is not None:
            self.ema.update()
        optimizer.step()
        schedulers = listed(self.lr_schedulers())
        if schedulers:
            schedulers[player].step()
        rate = "train/gen_lr" if player == GENERATOR else "train/disc_lr"
        means = self._means[player].add(self._window, self.logged_every(self.log_every_n_steps))
        if means is not None:
            self.log_dict({**means, rate: optimizer.param_groups[0]["lr"]}, prog_bar=False, on_step=True)
        self._window = {}

    def clipped(self, optimizer: torch.optim.Optimizer) -> float:
        """Largest norm of the gradient that this optimizer is about to use; 0 is any."""
        return self.gradient_clip_val

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clip the gradients of the player whose turn it is; by now they are no longer multiplied by a loss scale.

        Raises:
            ConfigError: If the optimizer unscales them itself.
            TrainingError: If they are not finite, and training cannot go on.
        """
        super().on_before_optimizer_step(optimizer)
        limit = self.clipped(optimizer)
        if limit > 0:
            scaler = getattr(self.trainer.precision_plugin, "scaler", None)
            if scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
                raise ConfigError(
                    f"training.optimizer_configs: a fused {type(optimizer).__name__} in half precision unscales gradients itself, too late "
                    'to clip them: leave "fused" out, do not clip, or use --precision bf16-mixed'
                )
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            nn.utils.clip_grad_norm_(parameters, limit)


def listed(things: Any) -> list[Any]:
    """Lightning gives one thing for one, a list for several and None for none."""
    return things if isinstance(things, list) else [] if things is None else [things]
