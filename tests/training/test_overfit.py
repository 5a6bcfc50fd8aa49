"""Whether a set-up can learn: one batch."""

from pathlib import Path

import pytest

from stable_audio_tools.training.options import TrainOptions
from stable_audio_tools.training.overfit import Verdict, overfit
from stable_audio_tools.training.randomness import isolated_randomness


@pytest.fixture
def verdict(noises):
    def run(config, **options):
        settings = {"batch_size": 2, "num_workers": 0, "accelerator": "cpu", "max_steps": 60, **options}
        with isolated_randomness(0):
            return overfit(TrainOptions(model_config=config, dataset_config=noises, **settings))

    return run


def test_a_set_up_that_learns_stops_when_the_loss_is_halved(verdict, tiny_diffusion, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    optimizer = {"diffusion": {"optimizer": {"type": "AdamW", "config": {"lr": 0.02}}}}
    found = verdict(tiny_diffusion(optimizer_configs=optimizer), max_steps=400)
    assert found.can_learn and found.last <= found.first / 2 and 5 < found.steps < 400
    assert str(found).startswith("this set-up can learn: the loss of one batch went from ")
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize("rate", [0.0, 30.0])
def test_learning_rates_that_cannot_be_right_are_found_out(verdict, tiny_autoencoder, rate):
    found = verdict(tiny_autoencoder(learning_rate=rate, use_ema=False), max_steps=12, on_nan="skip")
    assert not found.can_learn and "does NOT learn" in str(found) and "look at the learning rate" in str(found)


def test_every_step_is_the_same_but_for_the_weights(verdict, tiny_diffusion):
    optimizer = {"diffusion": {"optimizer": {"type": "SGD", "config": {"lr": 0.0}}}}
    found = verdict(tiny_diffusion(optimizer_configs=optimizer, timestep_sampler="logit_normal"), max_steps=7)
    assert found.last == pytest.approx(found.first, rel=1e-6) and found.steps == 7


def test_slow_learning_is_told_apart():
    assert "falls, but slowly" in str(Verdict(1.0, 0.8, 10)) and "look at" in str(Verdict(1.0, 0.99, 10))
