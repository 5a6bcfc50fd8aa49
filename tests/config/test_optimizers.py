"""Optimizers and schedules: found wrong without torch, and the tables say what torch says."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch

from stable_audio_tools.config.check import check_model_config
from stable_audio_tools.config.optimizers import REQUIRED, SCHEDULES, TORCH_OPTIMIZERS, UNUSABLE, schema_of
from stable_audio_tools.training.optimizers import create_optimizer_from_config
from stable_audio_tools.training.schedulers import create_scheduler_from_config

OPTIMIZER = "training.optimizer_configs.diffusion.optimizer"
SCHEDULER = "training.optimizer_configs.diffusion.scheduler"


def classes(module: Any, base: type) -> dict[str, Any]:
    found = {name: value for name, value in vars(module).items() if isinstance(value, type) and issubclass(value, base)}
    return {name: value for name, value in found.items() if value is not base and not name.startswith("_")}


@pytest.mark.parametrize(
    ("module", "base", "table", "given"),
    [
        (torch.optim, torch.optim.Optimizer, TORCH_OPTIMIZERS, {"params"}),
        (torch.optim.lr_scheduler, torch.optim.lr_scheduler.LRScheduler, SCHEDULES, {"optimizer", "last_epoch", "scale_fn"}),
    ],
)
def test_the_tables_say_what_torch_says(module: Any, base: type, table: Any, given: set[str]) -> None:
    installed = classes(module, base)
    assert set(installed) - set(UNUSABLE) <= set(table)
    for name in set(installed) & set(table):
        parameters = inspect.signature(installed[name]).parameters
        assert set(parameters) - given == set(table[name]), name
        assert {key for key, p in parameters.items() if p.default is p.empty} - given == REQUIRED.get(name, set()), name


@pytest.mark.parametrize("name", sorted(TORCH_OPTIMIZERS))
def test_torch_s_defaults_are_allowed(name: str) -> None:
    if not hasattr(torch.optim, name):
        pytest.skip("newer than the installed torch")
    defaults = {key: p.default for key, p in inspect.signature(getattr(torch.optim, name)).parameters.items() if key != "params"}
    assert schema_of(name, TORCH_OPTIMIZERS).mistakes(defaults) == []
    weights = [torch.nn.Parameter(torch.zeros(2, 2))]
    lists = {key: list(value) if isinstance(value, tuple) else value for key, value in defaults.items()}
    create_optimizer_from_config({"type": name, "config": lists}, weights).step()


def test_schedules_that_are_allowed_are_built() -> None:
    required = {"T_max": 5, "T_0": 5, "base_lr": 0.1, "max_lr": 0.2, "gamma": 0.9, "milestones": [3], "step_size": 2, "total_steps": 9}
    for name in SCHEDULES:
        config = {key: value for key, value in required.items() if key in REQUIRED.get(name, ())}
        if name == "OneCycleLR":
            config["total_steps"] = 9
        assert schema_of(name, SCHEDULES).mistakes(config) == []
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9)
        create_scheduler_from_config({"type": name, "config": config}, optimizer)


@pytest.mark.parametrize(
    ("changes", "path", "message"),
    [
        ({f"{OPTIMIZER}.type": "AdamWW"}, f"{OPTIMIZER}.type", "unknown optimizer 'AdamWW'; did you mean 'AdamW'?"),
        ({OPTIMIZER: {"type": "FusedAdam", "config": {"amsgrad": True}}}, f"{OPTIMIZER}.config.amsgrad", "input should be False, got True"),
        ({f"{OPTIMIZER}.type": "LBFGS"}, f"{OPTIMIZER}.type",
         "optimizer 'LBFGS' cannot be used: it needs a closure, which training does not give it"),
        ({f"{OPTIMIZER}.config.lr": "5e-5"}, f"{OPTIMIZER}.config.lr", "input should be a valid number, got '5e-5'"),
        ({f"{OPTIMIZER}.config.lr": -1}, f"{OPTIMIZER}.config.lr", "input should be greater than or equal to 0, got -1"),
        ({f"{OPTIMIZER}.config.lr": float("nan")}, f"{OPTIMIZER}.config.lr", "input should be a finite number, got nan"),
        ({f"{OPTIMIZER}.config.weightdecay": 0.1}, f"{OPTIMIZER}.config.weightdecay", "unknown key; did you mean 'weight_decay'?"),
        ({f"{OPTIMIZER}.config.betas": [0.9, 0.9, 0.9]}, f"{OPTIMIZER}.config.betas",
         "value should have at most 2 items, not 3, got [0.9, 0.9, 0.9]"),
        ({SCHEDULER: {"type": "InverseLr"}}, f"{SCHEDULER}.type", "unknown scheduler 'InverseLr'; did you mean 'InverseLR'?"),
        ({SCHEDULER: {"type": "Optimizer"}}, f"{SCHEDULER}.type",
         f"unknown scheduler 'Optimizer'; known: InverseLR, {', '.join(SCHEDULES)}"),
        ({SCHEDULER: {"type": "CosineAnnealingLR"}}, f"{SCHEDULER}.config.T_max", "required key is missing"),
        ({SCHEDULER: {"type": "ReduceLROnPlateau"}}, f"{SCHEDULER}.type",
         "scheduler 'ReduceLROnPlateau' cannot be used: it needs a metric, which training does not give it"),
        ({SCHEDULER: {"type": "InverseLR", "config": {"warmup": 1}}}, f"{SCHEDULER}.config.warmup", "input should be less than 1, got 1"),
        ({f"{SCHEDULER}": {"type": "InverseLR", "warmup_steps": -1}}, f"{SCHEDULER}.warmup_steps",
         "input should be greater than or equal to 0, got -1"),
        ({f"{OPTIMIZER}.type": "CAdam"}, f"{OPTIMIZER}.type", "unknown optimizer 'CAdam'; did you mean 'CAdamW'?"),
        ({OPTIMIZER: {"type": "MuonAdamW", "config": {"adm_lr": 1}}}, f"{OPTIMIZER}.config.adm_lr", "unknown key; did you mean 'adam_lr'?"),
        ({OPTIMIZER: {"type": "CLion", "config": {"betas": [0.9]}}}, f"{OPTIMIZER}.config.betas",
         "value should have at least 2 items, not 1, got [0.9]"),
        ({f"{OPTIMIZER}.parameter_groups": [{"match": "conditioner"}]}, f"{OPTIMIZER}.parameter_groups[0]",
         "needs lr, lr_scale, weight_decay or frozen: nothing is different for these parameters"),
        ({f"{OPTIMIZER}.parameter_groups": [{"match": [], "lr": 0.1}]}, f"{OPTIMIZER}.parameter_groups[0].match",
         "is empty: name a part of the model, or patterns with '*'"),
        ({f"{OPTIMIZER}.parameter_groups": [{"match": "x", "lr": 0.1, "lr_scale": 2.0}]}, f"{OPTIMIZER}.parameter_groups[0].lr_scale",
         "is given beside lr: give one of them"),
        ({f"{OPTIMIZER}.parameter_groups": [{"match": "x", "lr": 0.1, "lr_scales": 0.1}]}, f"{OPTIMIZER}.parameter_groups[0].lr_scales",
         "unknown key; did you mean 'lr_scale'?"),
    ],
)  # fmt: skip
def test_mistakes(tiny_diffusion, edited, changes: dict[str, Any], path: str, message: str) -> None:
    training = {"optimizer_configs": {"diffusion": {"optimizer": {"type": "AdamW", "config": {"lr": 1e-4}}}}}
    config = edited(tiny_diffusion(), {"training": training})
    assert [m for m in check_model_config(config) if m.kind != "warning"] == []
    assert [(m.path, m.message) for m in check_model_config(edited(config, changes))] == [(path, message)]


def test_a_learning_rate_below_zero(tiny_diffusion, edited) -> None:
    found = check_model_config(edited(tiny_diffusion(), {"training": {"learning_rate": -1.0}}))
    assert [(m.path, m.message) for m in found] == [("training.learning_rate", "input should be greater than or equal to 0, got -1.0")]
