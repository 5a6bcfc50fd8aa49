import torch

from stable_audio_tools.models import create_model_from_config
from stable_audio_tools.training import create_training_wrapper_from_config
from stable_audio_tools.training.base import unbatch


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
