import pytest
import torch

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.training.optimizers import create_optimizer_from_config


def parameters(*, frozen=1):
    made = [torch.nn.Parameter(torch.ones(2)) for _ in range(3)]
    for parameter in made[:frozen]:
        parameter.requires_grad_(False)
    return made


@pytest.mark.parametrize("name", ["AdamW", "Adam", "SGD", "RMSprop", "NAdam", "RAdam", "Adafactor"])
def test_any_optimizer_of_torch_by_name(name):
    weights = parameters()
    optimizer = create_optimizer_from_config({"type": name, "config": {"lr": 0.125}}, iter(weights))
    assert type(optimizer) is getattr(torch.optim, name)
    (group,) = optimizer.param_groups
    assert group["lr"] == 0.125
    assert [id(parameter) for parameter in group["params"]] == [id(parameter) for parameter in weights[1:]], "frozen ones are left out"


def test_config_is_used_and_left_as_it_is():
    config = {"type": "AdamW", "config": {"lr": 1e-4, "betas": [0.8, 0.99], "weight_decay": 1e-3}}
    group = create_optimizer_from_config(config, parameters()).param_groups[0]
    assert (group["betas"], group["weight_decay"]) == ((0.8, 0.99), 1e-3)
    assert config["config"]["betas"] == [0.8, 0.99]


def test_without_config_torchs_defaults():
    assert create_optimizer_from_config({"type": "Adam"}, parameters()).param_groups[0]["lr"] == 1e-3


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"type": "AdamWW"}, "unknown optimizer 'AdamWW'; did you mean 'AdamW'?"),
        ({"type": "lr_scheduler"}, "unknown optimizer 'lr_scheduler'"),
        ({"type": "xyz"}, "unknown optimizer 'xyz'; known: \\[.*'AdamW'.*\\]"),
        ({"type": "AdamW", "config": {"learning_rate": 1}}, "optimizer 'AdamW': .*unexpected keyword argument 'learning_rate'"),
        ({"type": "AdamW", "config": {"lr": -1}}, "optimizer 'AdamW': Invalid learning rate: -1"),
    ],
)
def test_wrong_optimizers(config, message):
    with pytest.raises(ConfigError, match=f"^{message}"):
        create_optimizer_from_config(config, parameters())


def test_nothing_to_train():
    with pytest.raises(ConfigError, match=r"^optimizer 'AdamW' has nothing to train: every parameter is frozen$"):
        create_optimizer_from_config({"type": "AdamW"}, parameters(frozen=3))
