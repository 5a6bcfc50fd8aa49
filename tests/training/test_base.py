import pytest
import pytorch_lightning as pl
import torch

from stable_audio_tools.models import create_model_from_config
from stable_audio_tools.training import create_training_wrapper_from_config
from stable_audio_tools.training.base import unbatch
from stable_audio_tools.training.parameters import frozen_parts


def test_batches_of_all_loaders_become_audio_with_channels():
    metadata = [{"a": 1}]
    for shape, expected in (((2, 1, 8), (2, 1, 8)), ((1, 2, 3, 8), (2, 3, 8)), ((2, 8), (2, 1, 8))):
        audio, meta = unbatch([torch.ones(shape), metadata])
        assert audio.shape == expected and meta is metadata


def test_validation_moves_only_with_the_model(tiny_autoencoder, tiny_diffusion, monkeypatch):
    """A VAE draws its latents; two validations of the same weights give the same numbers nevertheless."""
    for config in (tiny_autoencoder(), tiny_diffusion()):
        wrapper = create_training_wrapper_from_config(config, create_model_from_config(config)).eval()
        logged = []
        monkeypatch.setattr(wrapper, "log", lambda name, value, **_: logged.append((name, float(value))))  # noqa: B023
        monkeypatch.setattr(wrapper, "log_dict", lambda values, **_: logged.extend((k, float(v)) for k, v in values.items()))  # noqa: B023
        batch = (torch.randn(2, 1, 1024), [{"prompt": "x", "seconds_start": 0, "seconds_total": 1}] * 2)
        with torch.no_grad():
            for _ in range(2):
                wrapper.validation_step(batch, 3)
        assert logged[: len(logged) // 2] == logged[len(logged) // 2 :] and logged


@pytest.mark.parametrize("demos", [False, True])
def test_what_is_frozen_is_in_eval_mode_from_the_first_batch_on(train_briefly, tiny_diffusion, demos):
    """A run that is resumed makes no demo first, and must compute what the other one does."""

    class Watch(pl.Callback):
        def on_before_backward(self, trainer, pl_module, loss):
            frozen = [module for module in frozen_parts(pl_module) if any(part.training for part in module.modules())]
            modes.append((len(frozen), pl_module.diffusion.model.model.to_timestep_embed.training))

    modes = []
    train_briefly(tiny_diffusion(train="model.model.to_timestep_embed.*"), callbacks=[Watch()], demos=demos, max_steps=2)
    assert modes == [(0, True)] * 2
