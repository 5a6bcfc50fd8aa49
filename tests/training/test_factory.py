"""From a config to a wrapper and its demos, and the messages on the way."""

import json

import pytest
import pytorch_lightning as pl

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.models import create_model_from_config
from stable_audio_tools.training import create_demo_callback_from_config, create_training_wrapper_from_config
from stable_audio_tools.training.autoencoders.wrapper import AutoencoderTrainingWrapper
from stable_audio_tools.training.demos.base import DemoCallback
from stable_audio_tools.training.diffusion import DiffusionCondTrainingWrapper


def test_every_model_type_gets_its_wrapper(tiny_autoencoder, tiny_diffusion):
    for config, kind in ((tiny_autoencoder(), AutoencoderTrainingWrapper), (tiny_diffusion(), DiffusionCondTrainingWrapper)):
        before = json.dumps(config)
        model = create_model_from_config(config)
        wrapper = create_training_wrapper_from_config(config, model)
        assert type(wrapper) is kind and wrapper.model is model
        assert json.dumps(config) == before, "configs are read, never written"


def test_configs_may_be_files(tmp_path, tiny_autoencoder):
    path = tmp_path / "model.json"
    path.write_text(json.dumps(tiny_autoencoder()))
    model = create_model_from_config(tiny_autoencoder())
    for given in (path, str(path)):
        assert isinstance(create_training_wrapper_from_config(given, model), AutoencoderTrainingWrapper)
        assert isinstance(create_demo_callback_from_config(given), DemoCallback)


def test_demo_callbacks_accept_what_published_scripts_pass(tiny_diffusion):
    callback = create_demo_callback_from_config(tiny_diffusion(), demo_dl=[1, 2])
    assert callback.demo_every == 1000
    without = tiny_diffusion()
    del without["training"]["demo"]
    assert create_demo_callback_from_config(without) is None


@pytest.mark.filterwarnings("ignore")  # Lightning's advice
def test_a_script_of_ones_own_trains(tiny_diffusion, noises):
    """The last example of docs/training.md."""
    from stable_audio_tools.data.dataset import create_dataloader_from_config

    config = tiny_diffusion()
    loader = create_dataloader_from_config(noises, batch_size=2, sample_size=1024, sample_rate=8000, audio_channels=1, num_workers=0)
    wrapper = create_training_wrapper_from_config(config, create_model_from_config(config))
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(max_steps=2, accelerator="cpu", **quiet)
    trainer.fit(wrapper, loader)
    assert trainer.global_step == 2


def test_there_is_nothing_to_train_without_a_training_section(tiny_autoencoder):
    config = tiny_autoencoder()
    del config["training"]
    model = create_model_from_config(config)
    for call in (lambda: create_training_wrapper_from_config(config, model), lambda: create_demo_callback_from_config(config)):
        with pytest.raises(ConfigError, match=r"^the model config has no 'training' section, which says how to train the model$"):
            call()


@pytest.mark.parametrize(
    ("training", "messages"),
    [
        (
            {"cfg_dropout_probb": 0.1, "use_ema": "often"},
            [
                "training.use_ema: input should be a valid boolean, got 'often'",
                "training.cfg_dropout_probb: unknown key; did you mean 'cfg_dropout_prob'?",
                "training.demo.num_demos: is 3, but demo_cond has 1 entries",
            ],
        ),
        (
            {"timestep_sampler": "logit_norml", "learning_rate": None},
            [
                "training: needs learning_rate or optimizer_configs",
                "training.timestep_sampler: unknown timestep sampler 'logit_norml'; did you mean 'logit_normal'?",
                "training.demo.num_demos: is 3, but demo_cond has 1 entries",
            ],
        ),
    ],
)
def test_all_mistakes_of_the_training_section_are_reported_at_once(tiny_diffusion, training, messages):
    config = tiny_diffusion(**training)
    config["training"]["demo"]["num_demos"] = 3
    model = create_model_from_config(tiny_diffusion())
    with pytest.raises(ConfigError) as caught:
        create_training_wrapper_from_config(config, model)
    assert sorted(str(caught.value).splitlines()) == sorted(f"model config: {message}" for message in messages)
