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


# ---- groups ------------------------------------------------------------------------------------------------------------------------------


def network():
    torch.manual_seed(0)
    return torch.nn.ModuleDict({"body": torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.LayerNorm(3)), "head": torch.nn.Linear(3, 2)})


def groups_of(**block):
    """Options and names of every group."""
    model = network()
    optimizer = create_optimizer_from_config({"config": {"lr": 1.0, "weight_decay": 0.5}, **block}, model.named_parameters())
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {tuple(names[id(p)] for p in group["params"]): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups}


def test_parameters_have_options_by_name_and_the_first_group_that_fits_counts():
    rules = [{"match": "head.bias", "lr": 0.25}, {"match": ["head", "*.0.weight"], "lr_scale": 0.5, "weight_decay": 0.0}]
    assert groups_of(type="AdamW", parameter_groups=rules) == {
        ("body.0.weight", "head.weight"): (0.5, 0.0),
        ("body.0.bias", "body.1.weight", "body.1.bias"): (1.0, 0.5),
        ("head.bias",): (0.25, 0.5),
    }


@pytest.mark.parametrize("name", ["AdamW", "Lion"])
def test_vectors_are_not_decayed_if_asked(name):
    assert groups_of(type=name, no_decay_on_vectors=True) == {
        ("body.0.weight", "head.weight"): (1.0, 0.5),
        ("body.0.bias", "body.1.weight", "body.1.bias", "head.bias"): (1.0, 0.0),
    }


def test_groups_of_muon_are_halved():
    model = network()
    rules = [{"match": "head", "lr_scale": 0.1}]
    block = {"type": "MuonAdamW", "config": {"muon_lr": 1.0, "adam_lr": 0.5}, "parameter_groups": rules}
    made = create_optimizer_from_config(block, model.named_parameters())
    assert [(group["kind"], group["lr"], len(group["params"])) for group in made.param_groups] == [
        ("muon", 1.0, 1), ("adam", 0.5, 3), ("muon", 0.1, 1), ("adam", 0.05, 1),
    ]  # fmt: skip


def test_a_group_that_fits_nothing_is_refused():
    rules = [{"match": "head", "lr": 0.1}, {"match": "haed", "lr": 0.1}]
    with pytest.raises(ConfigError, match=r"^parameter_groups\[1\]\.match: 'haed' fits no trained parameter that no group before it has$"):
        groups_of(type="AdamW", parameter_groups=rules)
