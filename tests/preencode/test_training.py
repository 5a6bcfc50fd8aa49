"""From audio to latents to a trained model: as if it had been trained on audio."""

import json

import pytest
import torch

from stable_audio_tools.errors import ConfigError, DataError
from stable_audio_tools.training.randomness import isolated_randomness

PLAIN = {"channels": 8, "c_mults": [1, 2], "strides": [4, 4]}


@pytest.fixture(scope="module")
def certain(tiny_diffusion):
    """A diffusion model whose autoencoder draws nothing."""

    def config(**training):
        found = tiny_diffusion(**training)
        found["model"]["pretransform"]["config"].pop("bottleneck")
        found["model"]["pretransform"]["config"]["encoder"]["config"]["latent_dim"] = 4
        found["model"]["pretransform"]["scale"] = 2.0
        return found

    return config


@pytest.fixture
def losses():
    """A callback that collects the loss of each step."""
    import pytorch_lightning as pl

    class Losses(pl.Callback):
        def __init__(self):
            self.seen = []

        def on_train_batch_end(self, trainer, wrapper, outputs, batch, batch_idx):
            self.seen.append(outputs["loss"].item())

    return Losses


def latents_config(folder, **options):
    return {"dataset_type": "pre_encoded", "datasets": [{"path": str(folder)}], **options}


@pytest.mark.parametrize("pad", [True, False])
def test_training_on_latents_is_training_on_audio(encode, data, certain, write_model, train_briefly, losses, pad):
    """Also on clips that are shorter than a crop, and on those that the store holds without their padding."""
    model = write_model(certain())
    folder = encode("latents", sample_size=None, pad=pad, **model.options).folder
    seen = []
    for config, dataset_config in (
        (certain(), {**data, "augment_phase": False}),
        (certain(pre_encoded=True), latents_config(folder)),
    ):
        collected = losses()
        options = {"callbacks": [collected], "pretrained_ckpt_path": model.weights, "max_steps": 8}
        with isolated_randomness(0):
            train_briefly(config, dataset_config=dataset_config, **options)
        seen.append(collected.seen)
    assert len(seen[0]) == 8
    assert seen[1] == pytest.approx(seen[0], rel=2e-4)


def test_training_with_buckets(encode, certain, write_model, train_briefly, losses):
    model = write_model(certain())
    folder = encode("latents", sample_size=None, pad=False, **model.options).folder
    collected = losses()
    train_briefly(
        certain(pre_encoded=True), dataset_config=latents_config(folder, length_buckets=[32, 64]), callbacks=[collected], max_steps=8
    )
    assert len(collected.seen) == 8 and all(0 < loss < 10 for loss in collected.seen)


def test_training_on_audio_with_buckets(data, tiny_diffusion, train_briefly, losses):
    collected = losses()
    buckets = {**data, "length_buckets": [512, 1024]}
    train_briefly(tiny_diffusion(), dataset_config=buckets, callbacks=[collected], max_steps=6)
    assert len(collected.seen) == 6 and all(0 < loss < 10 for loss in collected.seen)


def test_training_with_cached_texts(encode, data, certain, write_model, train_briefly):
    """The cached embedding is what the model's own conditioner gives."""
    from stable_audio_tools.checkpoint import load_model_weights
    from stable_audio_tools.data.dataset import create_dataset_from_config
    from stable_audio_tools.models import create_model_from_config

    config = certain(pre_encoded=True)
    model = write_model(config)
    folder = encode("latents", sample_size=None, cache_conditions=["prompt"], **model.options).folder
    assert len(list((folder / "conditions" / "prompt").glob("*/*.safetensors"))) == 3, "each text once"
    options = latents_config(folder, cached_conditions=["prompt"])
    items = [create_dataset_from_config(options, 1024, 8000, 1)[index][1] for index in range(4)]
    network = create_model_from_config(config)
    load_model_weights(network, model.weights)
    expected = network.conditioner.conditioners["prompt"]([item["prompt_text"] for item in items], "cpu").embedding
    torch.testing.assert_close(torch.stack([item["prompt"] for item in items]), expected)
    config["model"]["conditioning"]["pre_encoded_keys"] = ["prompt"]
    assert train_briefly(config, dataset_config=options).step == 3


def test_a_conditioner_that_will_be_trained_is_warned_about(encode, certain, write_model, caplog):
    options = write_model(certain()).options
    encode(sample_size=None, cache_conditions=["prompt"], **options)
    assert "--cache-conditions prompt: this conditioner has trainable weights, which its cached embeddings freeze" in caplog.text
    with pytest.raises(ConfigError, match=r"the model has no conditioner of that id; it has: prompt, seconds_start, seconds_total$"):
        encode("b", sample_size=None, cache_conditions=["prmpt"], **options)


def test_an_item_without_a_text_is_named(encode, certain, write_model, tmp_path, write_noises):
    config = {"dataset_type": "audio_dir", "datasets": [{"id": "a", "path": str(write_noises(tmp_path / "n", 2))}]}
    with pytest.raises(DataError, match=r"^--cache-conditions prompt: .*00\.wav has no text of that name, but None$"):
        encode(dataset_config=config, sample_size=None, cache_conditions=["prompt"], **write_model(certain()).options)


# ---- samples and latents confused ---------------------------------------------------------------------------------------------------


def test_latents_for_a_model_that_encodes(encode, tiny_diffusion, train_briefly):
    folder = encode().folder
    message = r'^dataset config: holds latents, but the model would encode them again; set "pre_encoded": true in its training$'
    for options in ({"dataset_config": latents_config(folder)}, {"val_dataset_config": latents_config(folder)}):
        with pytest.raises(ConfigError, match=message):
            train_briefly(tiny_diffusion(), **options)


def test_audio_for_a_model_that_wants_latents(data, tiny_diffusion, train_briefly):
    with pytest.raises(
        ConfigError, match=r"^dataset config: holds audio, but the model's training\.pre_encoded is true, so it wants latents; "
    ):
        train_briefly(tiny_diffusion(pre_encoded=True), dataset_config=data)


def test_latents_for_an_autoencoder(encode, tiny_autoencoder, train_briefly):
    with pytest.raises(ConfigError, match=r"holds latents, but 'autoencoder' models train on audio; use dataset_type 'audio_dir'$"):
        train_briefly(tiny_autoencoder(), dataset_config=latents_config(encode().folder))


def test_latents_of_another_width(encode, write_model, oobleck_config, tiny_diffusion, train_briefly):
    folder = encode(**write_model(oobleck_config(latent_dim=6)).options).folder
    message = r"the model expects latents \(pre_encoded is true\) with 4 channels, but the dataset gives 6; does training\.pre_enc"
    with pytest.raises(DataError, match=message):
        train_briefly(tiny_diffusion(pre_encoded=True), dataset_config=latents_config(folder))


def test_long_files_by_several_crops(encode, data):
    data = dict(data)
    del data["random_crop"]
    folder = encode(dataset_config={**data, "dataset_type": "audio_crops", "min_crop_sec": 0.01}).folder / "0"
    metadata = [json.loads(path.read_text()) for path in sorted(folder.glob("0*.json"))]
    pieces = [item for item in metadata if item["relpath"] == "04.wav"]
    assert len(metadata) == 12 and [item["timestamps"][0] for item in pieces] == [0, 0.512]
    assert len({path.read_bytes() for path in folder.glob("*.npy")}) == 12
