"""Going on with training checkpoints of other programs that keep the published layout, as if they were ours."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from torch import Tensor

from stable_audio_tools.checkpoint import WRAPPED_LAYOUTS, Checkpoint, refuse_other_model, some
from stable_audio_tools.errors import CheckpointError
from stable_audio_tools.training.base import TrainingWrapper
from stable_audio_tools.training.losses.modules import LossModule

logger = logging.getLogger(__name__)
OURS = "random_state"  # is in every training checkpoint of ours, and in none of another program
LOSS_SCALES = ("MixedPrecision", "native_amp_scaling_state")  # where Lightning has kept that of half precision
EXPECTED = (
    "state_dict", "epoch", "global_step", "pytorch-lightning_version", "loops", "optimizer_states", "lr_schedulers", "model_config",
    "hparams_name", *LOSS_SCALES,
)  # fmt: skip
TERM = re.compile(r"losses_gen\.losses\.\d+\.weight$")
KINDS = ("betas", "momentum", "alpha", "rho", "etas", "lambd")  # options that tell kinds of optimizers apart


def is_foreign(checkpoint: Checkpoint) -> bool:
    """Whether another program wrote a training checkpoint."""
    return OURS not in checkpoint.extra


def adapt(checkpoint: Checkpoint, wrapper: TrainingWrapper, data: Any) -> dict[str, Any]:
    """A foreign training checkpoint as one of ours, as far as it goes: weights, averages, step, and states of optimizers and schedules.

    What could not be used is said. The run begins a pass of its own through the data, with random numbers of its own.

    Args:
        checkpoint: What the other program wrote.
        wrapper: What goes on with it.
        data: The model's config.

    Raises:
        CheckpointError: If the model's weights do not fit.
    """
    own = wrapper.state_dict()
    refuse_other_model(checkpoint, own)
    used = _used(checkpoint, wrapper, own)
    average = f"{wrapper.ema_prefix}."
    has_average = wrapper.ema is not None and any(key.startswith(average) for key in used)
    absent = [key for key in own if key not in used and key.startswith(average)]
    begun = {key: used.get(key.replace(f"{average}ema_model.", _averaged_part(wrapper), 1), own[key]) for key in absent}  # with the weights
    step = int(checkpoint.extra.get("global_step", 0))
    players = list(_players(checkpoint, wrapper, step))
    _say(checkpoint, wrapper, used, players, step, has_average=has_average)
    return {
        "epoch": int(checkpoint.extra.get("epoch", 0)),
        "global_step": step,
        "pytorch-lightning_version": pl.__version__,
        "state_dict": {**own, **begun, **used},
        "loops": _loops_at(step, wrapper),
        "callbacks": {},
        "model_config": data,
        "optimizer_states": [player.optimizer for player in players],
        "lr_schedulers": [player.schedule for player in players if player.schedule is not None],
        **{key: checkpoint.extra[key] for key in LOSS_SCALES if key in checkpoint.extra},
        OURS: None,
    }


def adapt_in_place(content: dict[str, Any], wrapper: TrainingWrapper) -> None:
    """`adapt` for what a trainer has just read, as trainers of other scripts do.

    Args:
        content: Of the file; becomes what one of ours would hold. Left alone if it does not describe a run.
        wrapper: What goes on with it, in its trainer.

    Raises:
        CheckpointError: If the model's weights do not fit.
    """
    if "loops" not in content:
        return
    extra = {key: value for key, value in content.items() if key != "state_dict"}
    path = str(wrapper.trainer.ckpt_path or "checkpoint")
    content.update(adapt(Checkpoint(path, "wrapped", content["state_dict"], extra), wrapper, content.get("model_config")))


# ---- weights -----------------------------------------------------------------------------------------------------------------------------


def _used(checkpoint: Checkpoint, wrapper: TrainingWrapper, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of its tensors that have a place here."""
    theirs = checkpoint.state_dict
    used = {key: value for key, value in theirs.items() if key in own and value.shape == own[key].shape}
    needed = [key for key in own if key not in used and key.startswith(f"{wrapper.model_prefix}.")]
    if needed:
        raise CheckpointError(f"{checkpoint.path}: does not fit this run: its model lacks {some(needed)}, or has it in another shape")
    if sum(map(bool, map(TERM.match, theirs))) != sum(map(bool, map(TERM.match, own))):  # other terms, so these numbers mean others
        used = {key: value for key, value in used.items() if not TERM.match(key)}
    return used


def _averaged_part(wrapper: TrainingWrapper) -> str:
    """Prefix of the weights that the average covers."""
    layout = next(layout for layout in WRAPPED_LAYOUTS if layout.model == f"{wrapper.model_prefix}.")
    return layout.model + layout.covers


def _changed_by_training(wrapper: TrainingWrapper) -> Iterator[str]:
    """Names of what a run would miss: trained parameters, and weights of losses that decay."""
    for name, parameter in wrapper.named_parameters():
        if parameter.requires_grad:
            yield name
    for path, module in wrapper.named_modules():
        if isinstance(module, LossModule) and module.decay != 1:
            yield f"{path}.weight"


# ---- optimizers and schedules ------------------------------------------------------------------------------------------------------------


class Player(NamedTuple):
    """One of the optimizers that take turns, or the only one.

    Attributes:
        name: Of the part that it trains.
        optimizer: State of the optimizer by our numbers of parameters.
        schedule: State of its schedule; None if it has none.
        lost: What of theirs could not be used, and why.
    """

    name: str
    optimizer: dict[str, Any]
    schedule: dict[str, Any] | None
    lost: list[str]


def _players(checkpoint: Checkpoint, wrapper: TrainingWrapper, step: int) -> Iterator[Player]:
    """What each optimizer of this run goes on with."""
    optimizers, schedules = _configured(wrapper)
    names = {id(parameter): name for name, parameter in wrapper.named_parameters()}
    states = list(checkpoint.extra.get("optimizer_states") or [])
    clocks = list(checkpoint.extra.get("lr_schedulers") or [])
    for index, optimizer in enumerate(optimizers):
        mine = [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]
        lost: list[str] = []
        clock = clocks[index] if index < len(clocks) else {}
        schedule: Any = None
        if index < len(schedules):
            _advance(schedules[index], int(clock.get("last_epoch", step // len(optimizers))))  # sets the learning rate, too
            schedule = schedules[index].state_dict()
            if not clock:
                lost.append("its schedule (there is none)")
            elif {key for key in schedule if not key.startswith("_")} <= clock.keys():
                schedule = {**schedule, **clock}
            else:
                lost.append("its schedule (it is of another kind)")
        state = optimizer.state_dict()
        if index >= len(states):
            lost.append(f"its optimizer states (it has {len(states)} optimizers, this run {len(optimizers)})")
        else:
            moved = _renumbered(states[index], optimizer, mine, checkpoint.state_dict, wrapper)
            if isinstance(moved, str):
                lost.append(f"its optimizer states ({moved})")
            else:
                state = moved
        yield Player(mine[0].split(".")[0], state, schedule, lost)


def _configured(wrapper: TrainingWrapper) -> tuple[list[Any], list[Any]]:
    """Optimizers and schedules of a wrapper, as lists."""
    made: Any = wrapper.configure_optimizers()
    if isinstance(made, tuple):
        return list(made[0]), [entry["scheduler"] if isinstance(entry, dict) else entry for entry in made[1]]
    return (list(made), []) if isinstance(made, list) else ([made], [])


def _advance(schedule: Any, steps: int) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*")
        for _ in range(steps):
            schedule.step()


def _renumbered(
    their: Mapping[str, Any],
    optimizer: torch.optim.Optimizer,
    mine: Sequence[str],
    tensors: Mapping[str, Tensor],
    wrapper: TrainingWrapper,
) -> dict[str, Any] | str:
    """Their state of an optimizer by our numbers of parameters, or why there is none."""
    ours = optimizer.state_dict()
    if len(their["param_groups"]) != 1 or len(ours["param_groups"]) != 1:
        return f"it has {len(their['param_groups'])} groups of parameters, this run {len(ours['param_groups'])}"
    (group,), (own_group,) = their["param_groups"], ours["param_groups"]
    other = [key for key in KINDS if (key in group) != (key in own_group)]
    if other:
        return f"they are of another kind of optimizer: {'with' if other[0] in group else 'without'} {other[0]}"
    numbers, states = group["params"], their["state"]
    candidates = [names for names in _numberings(wrapper, tensors, mine) if len(names) == len(numbers)]
    if not candidates:
        return f"it updates {len(numbers)} parameters, this run {len(mine)}"
    fitting = (dict(zip(names, numbers, strict=True)) for names in candidates)
    chosen = next((by for by in fitting if all(_fits(states.get(number), tensors[name]) for name, number in by.items())), None)
    if chosen is None or any(name in chosen and not _fits(states.get(chosen[name]), wrapper.get_parameter(name)) for name in mine):
        return "their shapes differ"
    moved = {index: states[chosen[name]] for index, name in enumerate(mine) if name in chosen and chosen[name] in states}
    return {"state": moved, "param_groups": [{**own_group, **{key: value for key, value in group.items() if key != "params"}}]}


def _numberings(wrapper: TrainingWrapper, tensors: Mapping[str, Tensor], mine: Sequence[str]) -> Iterator[list[str]]:
    """Orders in which another program may have numbered the parameters of an optimizer: as they stand in its file.

    Some leave out what is frozen, some do not. Copies of the model may have parts that ours do not need.
    """
    parts = [*dict.fromkeys(name.split(".")[0] for name in mine)]
    all_here = {name for name, _ in wrapper.named_parameters()}
    of_copies = {f"{part}.{name}" for part in parts for name, _ in wrapper.model.named_parameters()}
    for known in (set(mine), all_here, all_here | of_copies):
        listed = [key for key in tensors if key in known and key.split(".")[0] in parts]
        yield listed
        yield sorted(listed, key=lambda key: parts.index(key.split(".")[0]))


def _fits(state: Mapping[str, Any] | None, parameter: Tensor) -> bool:
    """Whether what an optimizer remembers of a parameter has its shape."""
    sized = [value for key, value in (state or {}).items() if isinstance(value, Tensor) and key.startswith(("exp_avg", "momentum_buffer"))]
    return all(value.shape == parameter.shape for value in sized)


# ---- what is told, and where the run begins ----------------------------------------------------------------------------------------------


def _say(
    checkpoint: Checkpoint, wrapper: TrainingWrapper, used: Mapping[str, Tensor], players: Sequence[Player], step: int, *, has_average: bool
) -> None:
    """One line: what the run goes on with, what it begins anew, and what it has no use for."""
    lost = [f"{what}{f' of {player.name}' if len(players) > 1 else ''}" for player in players for what in player.lost]
    keeps_states = not any("optimizer states" in what for player in players for what in player.lost)
    text = f"goes on from step {step} with its weights" + (" and averages" if has_average else "")
    text += (" and optimizer states" if keeps_states else "") + "".join(f", but not {what}" for what in lost) + "; the data begin anew"
    if wrapper.ema is not None and not has_average:
        text += ", and the average with these weights"
    begun = sorted(set(_changed_by_training(wrapper)) - used.keys())
    if begun:
        text += f"; begins anew, since the file has nothing that fits: {some(begun)}"
    unused = {".".join(key.split(".")[:2]) for key in checkpoint.state_dict if key not in used}
    unused |= {key for key, value in checkpoint.extra.items() if key not in EXPECTED and value}
    number = len(checkpoint.extra.get("optimizer_states") or [])
    if number > len(players):
        unused.add(f"optimizer_states of {number - len(players)} further optimizers")
    logger.warning("%s: of another program: %s; not used: %s", checkpoint.path, text, ", ".join(sorted(unused)) or "nothing")


def _loops_at(step: int, wrapper: TrainingWrapper) -> dict[str, Any]:
    """The state of Lightning's loops after so many steps, before the first batch of a pass."""
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
    loop = trainer.fit_loop.epoch_loop
    if wrapper.automatic_optimization:
        progress: Any = loop.automatic_optimization.optim_progress.optimizer.step
    else:
        progress = loop.manual_optimization.optim_step_progress
    progress.total.ready = progress.total.completed = step
    return {"fit_loop": trainer.fit_loop.state_dict()}
