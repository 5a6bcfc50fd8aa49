"""Which parameters are trained."""

import pytest
import torch

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.models import create_model_from_config
from stable_audio_tools.training import create_training_wrapper_from_config


def trained(config):
    model = create_model_from_config(config)
    wrapper = create_training_wrapper_from_config(config, model)
    return wrapper, {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize(
    ("train", "parts"),
    [
        ("all", {"model", "conditioner"}),
        ("diffusion", {"model"}),
        ("conditioner", {"conditioner"}),
        (["conditioner.conditioners.seconds*"], {"conditioner"}),
        (["model.model.transformer.layers.0", "conditioner"], {"model", "conditioner"}),
    ],
)
def test_parts_of_a_diffusion_model(tiny_diffusion, train, parts):
    wrapper, names = trained(tiny_diffusion(train=train))
    assert {name.split(".")[0] for name in names} == parts
    optimizer = wrapper.configure_optimizers()
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(names)
    wrapper.train()
    for name, part in wrapper.diffusion.named_children():
        assert part.training is (name in parts), name


def test_the_decoder_of_an_autoencoder_alone(tiny_autoencoder):
    wrapper, names = trained(tiny_autoencoder(train="decoder"))
    assert {name.split(".")[0] for name in names} == {"decoder"}
    wrapper.train()
    assert wrapper.autoencoder.decoder.training and not wrapper.autoencoder.encoder.training


def test_training_leaves_what_is_frozen_as_it_was(train_briefly, tiny_diffusion):
    config = tiny_diffusion(train="diffusion")
    one, two = (train_briefly(config, max_steps=steps).wrapper.diffusion.state_dict() for steps in (1, 3))
    moved = {key.split(".")[0] for key in one if not torch.equal(one[key], two[key])}
    assert moved == {"model"}


def test_frozen_groups_are_frozen(tiny_diffusion):
    groups = [{"match": "conditioner", "frozen": True}, {"match": "model.model.to_*", "frozen": True}]
    optimizer = {"optimizer": {"type": "AdamW", "config": {"lr": 1e-3}, "parameter_groups": groups}}
    wrapper, names = trained(tiny_diffusion(optimizer_configs={"diffusion": optimizer}))
    assert names and not any(name.startswith(("conditioner.", "model.model.to_")) for name in names)
    assert sum(len(group["params"]) for group in wrapper.configure_optimizers().param_groups) == len(names)


def test_patterns_that_fit_nothing_are_refused(tiny_diffusion):
    with pytest.raises(ConfigError, match=r"^training\.train: 'modle' fits no parameter of the model; its parts are model, condit"):
        trained(tiny_diffusion(train="modle"))
    with pytest.raises(ConfigError, match=r"^training\.train: \['pretransform'\] leaves nothing to train: the model itself freezes"):
        trained(tiny_diffusion(train=["pretransform"]))
