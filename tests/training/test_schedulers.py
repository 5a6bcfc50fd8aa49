import json

import pytest
import torch

from stable_audio_tools.checkpoint import weights_hash
from stable_audio_tools.errors import ConfigError
from stable_audio_tools.training.checkpointing import find_checkpoints
from stable_audio_tools.training.schedulers import InverseLR, create_scheduler_from_config


def optimizer(*rates):
    return torch.optim.SGD([{"params": [torch.nn.Parameter(torch.ones(1))], "lr": rate} for rate in rates or (1.0,)])


def rates_of(scheduler, steps):
    rates = []
    for _ in range(steps):
        rates.append(scheduler.get_last_lr())
        scheduler.optimizer.step()
        scheduler.step()
    return rates


def test_inverse_lr_equals_the_reference(shared):
    cases = json.loads((shared / "goldens" / "losses" / "reference.json").read_text())["inverse_lr"]
    assert cases
    for case in cases:
        scheduler = create_scheduler_from_config({"type": "InverseLR", "config": case["config"]}, optimizer(case["base_lr"]))
        expected = case["lr_at_steps_0_to_11"]
        assert [rate for (rate,) in rates_of(scheduler, len(expected))] == pytest.approx(expected, rel=1e-12)


def test_inverse_lr_warms_up_decays_and_stops_at_its_floor():
    scheduler = InverseLR(optimizer(1.0, 0.5), inv_gamma=100, power=1.0, warmup=0.9, final_lr=0.25)
    rates = rates_of(scheduler, 1000)
    assert rates[0] == pytest.approx([0.1, 0.05]), "the very first rate is (1 - warmup) of the base"
    peak = max(range(1000), key=lambda step: rates[step][0])
    assert 10 < peak < 100
    assert rates[100][0] == pytest.approx(0.5, rel=1e-3), "half of it after inv_gamma steps"
    assert rates[-1] == pytest.approx([0.25, 0.25])


def test_without_options_it_is_one_over_n():
    assert [rate for (rate,) in rates_of(InverseLR(optimizer()), 4)] == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4])


def test_it_goes_on_from_its_state():
    whole = rates_of(InverseLR(optimizer(), inv_gamma=5, warmup=0.5), 9)
    first = InverseLR(optimizer(), inv_gamma=5, warmup=0.5)
    rates = rates_of(first, 4)
    second = InverseLR(optimizer(), inv_gamma=5, warmup=0.5)
    second.load_state_dict(first.state_dict())
    assert rates + rates_of(second, 5) == whole


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("ExponentialLR", {"gamma": 0.5}),
        ("CosineAnnealingLR", {"T_max": 10}),
        ("CosineAnnealingWarmRestarts", {"T_0": 3}),
        ("StepLR", {"step_size": 2}),
    ],
)
def test_any_scheduler_of_torch_by_name(name, config):
    made = optimizer()
    scheduler = create_scheduler_from_config({"type": name, "config": config}, made)
    assert type(scheduler).__name__ == name and scheduler.optimizer is made


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"type": "InversLR"}, "unknown scheduler 'InversLR'; did you mean 'InverseLR'?"),
        ({"type": "ExponentialLr"}, "unknown scheduler 'ExponentialLr'; did you mean 'ExponentialLR'?"),
        ({"type": "LRScheduler"}, "unknown scheduler 'LRScheduler'"),
        ({"type": "ReduceLROnPlateau"}, "unknown scheduler 'ReduceLROnPlateau'"),
        ({"type": "math"}, "unknown scheduler 'math'; known: \\['InverseLR', .*'StepLR'.*\\]"),
        ({"type": "StepLR"}, "scheduler 'StepLR': .*missing 1 required positional argument: 'step_size'"),
        ({"type": "InverseLR", "config": {"warmup": 1.0}}, "scheduler 'InverseLR': warmup: input should be less than 1, got 1.0"),
        ({"type": "InverseLR", "config": {"gamma": 1}}, ".*gamma.*did you mean 'inv_gamma'"),
    ],
)
def test_wrong_schedulers(config, message):
    with pytest.raises(ConfigError, match=f"^{message}"):
        create_scheduler_from_config(config, optimizer())


def test_the_learning_rate_grows_before_the_schedule_begins():
    def rates(warmup, steps, config):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        schedule = create_scheduler_from_config({**config, "warmup_steps": warmup}, optimizer)
        seen = []
        for _ in range(steps):
            seen.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        return seen

    for config in ({"type": "InverseLR", "config": {"inv_gamma": 3}}, {"type": "CosineAnnealingLR", "config": {"T_max": 9}}):
        plain = rates(0, 6, config)
        for warmup in (1, 2, 4):
            grown = rates(warmup, 6 + warmup, config)
            assert grown[:warmup] == pytest.approx([(index + 1) / warmup for index in range(warmup)])
            assert grown[warmup:] == pytest.approx(plain)


@pytest.mark.parametrize(
    "schedule",
    [{"type": "InverseLR", "config": {"inv_gamma": 2, "power": 0.5}}, {"type": "CosineAnnealingLR", "config": {"T_max": 5}}],
)
def test_a_run_goes_on_within_growth_and_after_it(train_briefly, tiny_diffusion, schedule):
    optimizer = {"optimizer": {"type": "SGD", "config": {"lr": 0.1}}, "scheduler": {**schedule, "warmup_steps": 3}}
    config = tiny_diffusion(optimizer_configs={"diffusion": optimizer})
    whole = train_briefly(config, max_steps=6, checkpoint_every=1)
    for path in find_checkpoints(whole.folder)[1:5:3]:  # of steps 2 and 5
        resumed = train_briefly(config, max_steps=6, ckpt_path=path)
        assert weights_hash(resumed.wrapper.state_dict()) == weights_hash(whole.wrapper.state_dict()), path.name
