"""What torch's optimizers and learning-rate schedules accept from a config, known without torch.

A test compares these tables with the signatures of the installed torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from stable_audio_tools.config.base import Betas, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Probability
from stable_audio_tools.registry import Mistake, Schema, closest
from stable_audio_tools.registry.schema import Location
from stable_audio_tools.registry.signature import COMPUTED, MISSING, Parameter

Pair = Annotated[Sequence[PositiveFloat], Field(min_length=2, max_length=2)]
Rates = NonNegativeFloat | Sequence[NonNegativeFloat]  # one for all parameter groups, or one for each

_SOME: Any = PositiveInt
_LOOP = {"foreach": bool | None, "maximize": bool, "differentiable": bool}
_GRAPH = {**_LOOP, "capturable": bool}
_BASE = {"lr": NonNegativeFloat, "weight_decay": NonNegativeFloat}
_ADAM = {**_BASE, **_GRAPH, "betas": Betas, "eps": NonNegativeFloat}
TORCH_OPTIMIZERS: Mapping[str, Mapping[str, Any]] = {
    "ASGD": {**_BASE, **_GRAPH, "lambd": float, "alpha": float, "t0": float},
    "Adadelta": {**_BASE, **_GRAPH, "rho": Probability, "eps": NonNegativeFloat},
    "Adafactor": {
        **_BASE, "beta2_decay": Annotated[float, Field(le=0)],
        "eps": Annotated[Sequence[NonNegativeFloat | None], Field(min_length=2, max_length=2)],
        "d": Annotated[float, Field(ge=1)], "foreach": bool | None, "maximize": bool,
    },
    "Adagrad": {
        **_BASE, **_LOOP, "lr_decay": NonNegativeFloat, "initial_accumulator_value": NonNegativeFloat, "eps": NonNegativeFloat,
        "fused": bool | None,
    },
    "Adam": {**_ADAM, "amsgrad": bool, "fused": bool | None, "decoupled_weight_decay": bool},
    "AdamW": {**_ADAM, "amsgrad": bool, "fused": bool | None},
    "Adamax": _ADAM,
    "Muon": {
        **_BASE, "momentum": NonNegativeFloat, "nesterov": bool,
        "ns_coefficients": Annotated[Sequence[float], Field(min_length=3, max_length=3)], "eps": float,
        "ns_steps": NonNegativeInt, "adjust_lr_fn": Literal["original", "match_rms_adamw"] | None,
    },
    "NAdam": {**_ADAM, "momentum_decay": NonNegativeFloat, "decoupled_weight_decay": bool},
    "RAdam": {**_ADAM, "decoupled_weight_decay": bool},
    "RMSprop": {**_BASE, **_GRAPH, "alpha": NonNegativeFloat, "eps": NonNegativeFloat, "momentum": NonNegativeFloat, "centered": bool},
    "Rprop": {"lr": NonNegativeFloat, **_GRAPH, "etas": Pair, "step_sizes": Pair},
    "SGD": {**_BASE, **_LOOP, "momentum": NonNegativeFloat, "dampening": float, "nesterov": bool, "fused": bool | None},
}  # fmt: skip
SCHEDULES: Mapping[str, Mapping[str, Any]] = {
    "ConstantLR": {"factor": Probability, "total_iters": NonNegativeInt},
    "CosineAnnealingLR": {"T_max": PositiveInt, "eta_min": NonNegativeFloat},
    "CosineAnnealingWarmRestarts": {"T_0": PositiveInt, "T_mult": PositiveInt, "eta_min": NonNegativeFloat},
    "CyclicLR": {
        "base_lr": Rates, "max_lr": Rates, "step_size_up": PositiveInt, "step_size_down": _SOME | None,
        "mode": Literal["triangular", "triangular2", "exp_range"], "gamma": float, "scale_mode": Literal["cycle", "iterations"],
        "cycle_momentum": bool, "base_momentum": Rates, "max_momentum": Rates,
    },
    "ExponentialLR": {"gamma": float},
    "LinearLR": {"start_factor": Annotated[float, Field(gt=0, le=1)], "end_factor": Probability, "total_iters": PositiveInt},
    "MultiStepLR": {"milestones": Sequence[NonNegativeInt], "gamma": float},
    "OneCycleLR": {
        "max_lr": Rates, "total_steps": _SOME | None, "epochs": _SOME | None, "steps_per_epoch": _SOME | None,
        "pct_start": Probability, "anneal_strategy": Literal["cos", "linear"], "cycle_momentum": bool, "base_momentum": Rates,
        "max_momentum": Rates, "div_factor": PositiveFloat, "final_div_factor": PositiveFloat, "three_phase": bool,
    },
    "PolynomialLR": {"total_iters": PositiveInt, "power": float},
    "StepLR": {"step_size": PositiveInt, "gamma": float},
}  # fmt: skip
REQUIRED = {
    "CosineAnnealingLR": {"T_max"}, "CosineAnnealingWarmRestarts": {"T_0"}, "CyclicLR": {"base_lr", "max_lr"}, "ExponentialLR": {"gamma"},
    "MultiStepLR": {"milestones"}, "OneCycleLR": {"max_lr"}, "StepLR": {"step_size"},
}  # fmt: skip
UNUSABLE = {
    "LBFGS": "it needs a closure, which training does not give it",
    "SparseAdam": "it updates sparse gradients only",
    "ReduceLROnPlateau": "it needs a metric, which training does not give it",
    "LambdaLR": "it needs a Python function, which JSON cannot hold",
    "MultiplicativeLR": "it needs a Python function, which JSON cannot hold",
    "SequentialLR": "it needs other schedulers, which JSON cannot hold",
    "ChainedScheduler": "it needs other schedulers, which JSON cannot hold",
}


def schema_of(name: str, table: Mapping[str, Mapping[str, Any]]) -> Schema:
    """What the ``config`` of an optimizer or schedule may say."""
    keys = {**table[name], **({"last_epoch": int} if table is SCHEDULES else {})}
    required = REQUIRED.get(name, ())
    return Schema(name, [Parameter(key, kind, MISSING if key in required else COMPUTED) for key, kind in keys.items()])


def torch_mistakes(
    what: str, name: str, config: Mapping[str, Any], table: Mapping[str, Mapping[str, Any]], others: Sequence[str] = ()
) -> Iterator[Mistake]:
    """Mistakes in ``{"type": name, "config": config}`` of one of torch's optimizers or schedules.

    Args:
        what: ``"optimizer"`` or ``"scheduler"``.
        name: Its class.
        config: Its arguments.
        table: `TORCH_OPTIMIZERS` or `SCHEDULES`.
        others: Further names that are allowed there, for the message.
    """
    where: Location = ("type",)
    if name in UNUSABLE:
        yield Mistake(where, f"{what} {name!r} cannot be used: {UNUSABLE[name]}", "unknown_type")
    elif name not in table:
        known = [*others, *table]
        guess = closest(name, known)
        hint = f"did you mean {guess!r}?" if guess else f"known: {', '.join(known)}"
        yield Mistake(where, f"unknown {what} {name!r}; {hint}", "unknown_type")
    else:
        for mistake in schema_of(name, table).mistakes(config):
            yield mistake.under("config")
