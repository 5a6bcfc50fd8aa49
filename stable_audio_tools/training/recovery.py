"""What a run goes on from: the last good checkpoint, and whether the config still fits it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from stable_audio_tools.checkpoint import FOREIGN, WRAPPED_LAYOUTS, Checkpoint, refuse_other_model, require_wrapped
from stable_audio_tools.errors import CheckpointError
from stable_audio_tools.registry.schema import without_comments
from stable_audio_tools.training.base import TrainingWrapper
from stable_audio_tools.training.checkpointing import find_checkpoints
from stable_audio_tools.training.log_sinks import hyperparameters

logger = logging.getLogger(__name__)
FIXED = ("training.optimizer_configs", "training.learning_rate", "training.train")  # what a resumed run takes from its checkpoint


def last_good_checkpoint(folder: Path) -> Path | None:
    """The checkpoint in a folder, or below it, that was written last and can be read and trained on; others are warned about."""
    for path in sorted(find_checkpoints(folder), key=lambda path: path.stat().st_mtime_ns, reverse=True):
        try:
            checkpoint = require_wrapped(path)
        except CheckpointError as error:
            logger.warning("not recovering from it: %s", error)
            continue
        broken = next((name for name, value in checkpoint.state_dict.items() if not _is_finite(value)), None)
        if broken is not None:
            logger.warning("not recovering from it: %s: its weights are not finite (%s)", path, broken)
            continue
        logger.info("recovering from %s", path)
        return path
    logger.info("nothing to recover in %s: starting afresh", folder)
    return None


def _is_finite(value: Tensor) -> bool:
    return not value.is_floating_point() or bool(torch.isfinite(value).all())


def compare_configs(checkpoint: Checkpoint, data: Any) -> None:
    """Say how the config differs from the one of the checkpoint. What a resumed run takes from the checkpoint must not differ.

    Raises:
        CheckpointError: If it does.
    """
    before = checkpoint.extra.get("model_config")
    if not isinstance(before, Mapping):
        return
    old, new = hyperparameters(without_comments(before)), hyperparameters(without_comments(data))
    changed = {key: f"{key}: {old.get(key, 'absent')} -> {new.get(key, 'absent')}" for key in old | new if old.get(key) != new.get(key)}
    fixed = [text for key, text in changed.items() if key.startswith(FIXED) or key.endswith(".enable_grad")]
    if fixed:
        raise CheckpointError(
            f"{checkpoint.path}: a resumed run has the optimizer and schedule of its checkpoint, but the config has changed: "
            f"{'; '.join(fixed[:8])}. Undo that, or make a model of the checkpoint with unwrap_model.py and start from that with "
            "--pretrained-ckpt-path"
        )
    if changed:
        logger.warning("the config is not the one of %s: %s", checkpoint.path, "; ".join([*changed.values()][:8]))


# ---- checkpoints of the reference, and of programs that keep its layout -----------------------------------------------------------------


def is_foreign(checkpoint: Checkpoint) -> bool:
    """Whether another program of the same layout wrote a training checkpoint: it keeps the weights twice, or its losses' weights."""
    return any(FOREIGN.search(key) for key in checkpoint.state_dict)


def adapt(checkpoint: Checkpoint, wrapper: TrainingWrapper, data: Any) -> dict[str, Any]:
    """A foreign training checkpoint as one of ours, as far as it goes: weights, averages, step, and optimizer states that fit.

    What could not be used is said. The run begins a pass of its own through the data, with random numbers of its own.

    Args:
        checkpoint: What the other program wrote.
        wrapper: What goes on with it.
        data: The model's config.

    Raises:
        CheckpointError: If the model's weights do not fit.
    """
    refuse_other_model(checkpoint, wrapper.state_dict())
    own = wrapper.state_dict()
    usable = {key: value for key, value in checkpoint.state_dict.items() if key in own and value.shape == own[key].shape}
    needed = [key for key in own if key not in usable and key.startswith(f"{wrapper.model_prefix}.")]
    if needed:
        raise CheckpointError(
            f"{checkpoint.path}: does not fit this run: its model lacks {', '.join(needed[:4])}, or has it in another shape"
        )
    average = f"{wrapper.ema_prefix}."
    absent = [key for key in own if key not in usable and key.startswith(average)]
    if absent:  # there was no average: it begins with the weights
        copied = {key: key.replace(f"{average}ema_model.", _averaged_part(wrapper), 1) for key in absent}
        usable |= {key: usable.get(source, own[key]) for key, source in copied.items()}
    step = int(checkpoint.extra.get("global_step", 0))
    states, lost = _optimizer_states(checkpoint, wrapper)
    schedules = checkpoint.extra.get("lr_schedulers", [])
    if lost:
        states, schedules = _fresh_states(step, wrapper)
    unused = sorted({".".join(key.split(".")[:2]) for key in checkpoint.state_dict if key not in usable})
    logger.warning(
        "%s: of another program: goes on from step %d with its weights%s%s; the data begin anew; not used: %s",
        checkpoint.path, step, "" if absent or wrapper.ema is None else " and averages",
        " and optimizer states" if not lost else f", but not its optimizer states ({lost})", ", ".join(unused) or "nothing",
    )  # fmt: skip
    return {
        "epoch": int(checkpoint.extra.get("epoch", 0)),
        "global_step": step,
        "pytorch-lightning_version": pl.__version__,
        "state_dict": {**own, **usable},
        "loops": _loops_at(step, wrapper),
        "callbacks": {},
        "model_config": data,
        "optimizer_states": states,
        "lr_schedulers": schedules,
    }


def _averaged_part(wrapper: TrainingWrapper) -> str:
    """Prefix of the weights that the average covers."""
    layout = next(layout for layout in WRAPPED_LAYOUTS if layout.model == f"{wrapper.model_prefix}.")
    return layout.model + layout.covers


def _optimizer_states(checkpoint: Checkpoint, wrapper: TrainingWrapper) -> tuple[list[Any], str]:
    """States of the optimizers by our numbers of parameters, and why theirs could not be used, or an empty string."""
    made = _configured(wrapper)[0]
    theirs = checkpoint.extra.get("optimizer_states") or []
    if len(theirs) != len(made):
        return [], f"it has {len(theirs)} optimizers, this run {len(made)}"
    names = {id(parameter): name for name, parameter in wrapper.named_parameters()}
    order = list(checkpoint.state_dict)
    states: list[Any] = []
    for optimizer, their in zip(made, theirs, strict=True):
        mine = [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]
        known = {name for name in names.values() if name.split(".")[0] == mine[0].split(".")[0]}
        ordered = [key for key in order if key in known]  # as its program numbered them: all of a module's, frozen ones too
        numbers = [number for group in their["param_groups"] for number in group["params"]]
        if len(numbers) != len(ordered):
            ordered = [key for key in ordered if key in set(mine)]
        if len(numbers) != len(ordered) or len(their["param_groups"]) != 1 or len(optimizer.param_groups) != 1:
            return [], f"it updates {len(numbers)} parameters, this run {len(mine)}"
        by_name = {name: their["state"].get(number) for name, number in zip(ordered, numbers, strict=True)}
        if any(_misfits(by_name.get(name), wrapper.get_parameter(name)) for name in mine):
            return [], "their shapes differ"
        kept = {number: by_name[name] for number, name in enumerate(mine) if by_name.get(name) is not None}
        group = {**optimizer.state_dict()["param_groups"][0], **{k: v for k, v in their["param_groups"][0].items() if k != "params"}}
        states.append({"state": kept, "param_groups": [group]})
    return states, ""


def _misfits(state: Mapping[str, Any] | None, parameter: Tensor) -> bool:
    sized = [value for key, value in (state or {}).items() if isinstance(value, Tensor) and key.startswith("exp_avg")]
    return any(value.shape != parameter.shape for value in sized)


def _configured(wrapper: TrainingWrapper) -> tuple[list[Any], list[Any]]:
    """Optimizers and schedulers of a wrapper, as lists."""
    made: Any = wrapper.configure_optimizers()
    if isinstance(made, tuple):
        return list(made[0]), [entry["scheduler"] if isinstance(entry, dict) else entry for entry in made[1]]
    return (list(made), []) if isinstance(made, list) else ([made], [])


def _fresh_states(step: int, wrapper: TrainingWrapper) -> tuple[list[Any], list[Any]]:
    """States of optimizers that have seen nothing yet, and of schedulers that have come to a step."""
    optimizers, schedulers = _configured(wrapper)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*")
        for scheduler in schedulers:
            for _ in range(step // len(schedulers)):  # those of two players advance in turn
                scheduler.step()
    return [optimizer.state_dict() for optimizer in optimizers], [scheduler.state_dict() for scheduler in schedulers]


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
