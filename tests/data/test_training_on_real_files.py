"""A model is trained from real sounds, whatever way they are stored: each dataset type, with and without workers."""

import json

import pytest

from stable_audio_tools.data.shards.pack import pack
from tests.data.conftest import SHARDS, SOUNDS


def ran(result, steps=3):
    loader = result.wrapper.trainer.train_dataloader
    return result.step == steps and loader.dataset.num_skipped == 0


@pytest.mark.parametrize(("kind", "workers"), [("audio_dir", 2), ("audio_crops", 0), ("wds", 2), ("s3", 0)])
def test_an_autoencoder_on_audio(config_of, tiny_autoencoder, train_briefly, kind, workers):
    options = {"random_crop": True} if kind != "audio_crops" else {}
    config = config_of(kind, augment_phase=True, **options)
    assert ran(train_briefly(tiny_autoencoder(), dataset_config=config, batch_size=4, num_workers=workers))


@pytest.mark.parametrize("kind", ["audio_dir", SHARDS[0]])
def test_a_diffusion_model_on_audio_with_its_captions(config_of, tiny_diffusion, train_briefly, kind):
    assert ran(train_briefly(tiny_diffusion(), dataset_config=config_of(kind), batch_size=4))


@pytest.mark.parametrize("packed", [False, True])
def test_a_diffusion_model_on_latents(sounds, tiny_autoencoder, tiny_diffusion, train_briefly, tmp_path, packed):
    import torch

    from stable_audio_tools.checkpoint import save_model_weights
    from stable_audio_tools.models import create_model_from_config
    from stable_audio_tools.preencode.run import PreEncodeOptions, pre_encode

    torch.manual_seed(0)
    config = tiny_autoencoder()
    (tmp_path / "vae.json").write_text(json.dumps(config))
    weights = save_model_weights(create_model_from_config(config).state_dict(), tmp_path / "vae.safetensors")
    audio = {"dataset_type": "audio_dir", "datasets": [{"id": "a", "path": str(sounds)}]}
    store = tmp_path / "latents"
    result = pre_encode(
        PreEncodeOptions(
            model_config=tmp_path / "vae.json", ckpt_path=weights, dataset_config=audio, output_path=store, sample_size=4096, num_workers=0,
            device="cpu",
        )
    )  # fmt: skip
    assert (result.written, result.skipped) == (len(SOUNDS), 0)
    config = {"dataset_type": "pre_encoded", "datasets": [{"path": str(store)}], "latent_crop_length": 64, "random_crop": True}
    if packed:
        pack(store, str(tmp_path / "shards"))
        config = {**config, "dataset_type": "wds", "datasets": [{"id": "a", "path": str(tmp_path / "shards")}], "pre_encoded": True}
    assert ran(train_briefly(tiny_diffusion(pre_encoded=True), dataset_config=config, batch_size=4))
