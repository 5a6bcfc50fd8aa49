"""Conditioners on encoded audio: of one recording, and of a mix of named ones."""

import logging

import pytest
import torch
from safetensors.torch import save_file

from stable_audio_tools import create_model_from_config
from stable_audio_tools.config.check import check_model_config
from stable_audio_tools.config.model import PretransformBlock
from stable_audio_tools.errors import CheckpointError, ConfigError, DataError
from stable_audio_tools.models.conditioners import PretransformConditioner, SourceMixConditioner
from stable_audio_tools.models.pretransforms import PatchedPretransform

PATCHED = PretransformBlock(type="patched", config={"channels": 1, "patch_size": 8})


def clip(channels=1, length=64, seed=0):
    return torch.randn(channels, length, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def autoencoder(oobleck_config, tmp_path):
    """A trained autoencoder: (its block, its weights file, the model)."""
    config = oobleck_config(bottleneck=None)
    torch.manual_seed(1)
    model = create_model_from_config(config)
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, tmp_path / "vae.safetensors")
    return PretransformBlock(type="autoencoder", config=config["model"]), str(tmp_path / "vae.safetensors"), model


def test_audio_becomes_latents_of_the_model_s_pretransform():
    pretransform = PatchedPretransform(channels=1, patch_size=8)
    conditioner = PretransformConditioner(8, 8000, use_model_pretransform=True, pretransform=pretransform)
    audio = clip()
    embedding, mask = conditioner([audio, 2 * audio], "cpu")
    assert torch.equal(embedding[0], pretransform.encode(audio[None])[0])
    assert mask.shape == (2, 8) and mask.all()
    stereo = conditioner([torch.cat([audio, audio])], "cpu").embedding
    torch.testing.assert_close(stereo, embedding[:1])
    assert torch.equal(conditioner(torch.stack([audio, 2 * audio]), "cpu").embedding, embedding)


def test_another_width_is_projected_frame_by_frame():
    conditioner = PretransformConditioner(5, 8000, pretransform_config=PATCHED)
    audio = clip()
    embedding, mask = conditioner([audio], "cpu")
    assert embedding.shape == (1, 5, 8) and mask.shape == (1, 8)
    frame = conditioner.proj_out(audio[0, 16:24])
    torch.testing.assert_close(embedding[0, :, 2], frame)


def test_frozen_pretransform_is_loaded_on_first_use_and_once(autoencoder, monkeypatch):
    block, path, model = autoencoder
    conditioner = PretransformConditioner(4, 8000, pretransform_config=block, pretransform_ckpt_path=path)
    assert not conditioner.state_dict() and not list(conditioner.parameters())
    embedding = conditioner([clip()], "cpu").embedding
    torch.testing.assert_close(embedding, model.encode(clip()[None]))
    assert not embedding.requires_grad
    monkeypatch.setattr(
        "stable_audio_tools.models.conditioners.encoded_audio.load_pretransform_weights", lambda *_, **__: pytest.fail("again")
    )
    again = PretransformConditioner(4, 8000, pretransform_config=block, pretransform_ckpt_path=path)
    assert torch.equal(again([clip()], "cpu").embedding, embedding)


def test_saved_pretransform_is_part_of_the_model(autoencoder):
    block, path, model = autoencoder
    conditioner = PretransformConditioner(4, 8000, pretransform_config=block, pretransform_ckpt_path=path, save_pretransform=True)
    assert set(conditioner.state_dict()) == {f"pretransform.model.{key}" for key in model.state_dict()}
    torch.testing.assert_close(conditioner([clip()], "cpu").embedding, model.encode(clip()[None]))


def test_what_is_wrong_with_the_config(autoencoder, caplog):
    with pytest.raises(ConfigError, match="conditioner 'pretransform': needs pretransform_config, or use_model_pretransform: true"):
        PretransformConditioner(8, 8000)
    with pytest.raises(ConfigError, match="use_model_pretransform is true, but the model has no pretransform"):
        PretransformConditioner(8, 8000, use_model_pretransform=True)
    pretransform = PatchedPretransform(channels=1, patch_size=8)
    with caplog.at_level(logging.WARNING):
        PretransformConditioner(8, 8000, use_model_pretransform=True, pretransform_ckpt_path="x.ckpt", pretransform=pretransform)
        PretransformConditioner(4, 8001, pretransform_config=autoencoder[0])([clip()], "cpu")
    assert "pretransform_ckpt_path is ignored, since use_model_pretransform is true" in caplog.text
    assert "starts with random weights: it has no pretransform_ckpt_path" in caplog.text
    missing = PretransformConditioner(4, 8000, pretransform_config=autoencoder[0], pretransform_ckpt_path="/nowhere.ckpt")
    with pytest.raises(CheckpointError, match=r"/nowhere\.ckpt: no such file"):
        missing([clip()], "cpu")


def test_what_is_wrong_with_the_audio():
    conditioner = PretransformConditioner(8, 8000, pretransform_config=PATCHED)
    with pytest.raises(DataError, match=r"must have one shape, got \(1, 32\), \(1, 64\)"):
        conditioner([clip(), clip(length=32)], "cpu")
    for value in ("a.wav", torch.zeros(8)):
        with pytest.raises(DataError, match=r"expected a tensor \(channels, length\) per item, got"):
            conditioner([value], "cpu")


def test_in_a_model_config(dit_config):
    """Checked inside, built with the model's pretransform, and concatenated to the input."""
    config = dit_config(input_concat_dim=8)
    config["model"]["conditioning"]["configs"].append(
        {"id": "sketch", "type": "pretransform", "config": {"sample_rate": 8000, "use_model_pretransform": True, "output_dim": 8}}
    )
    config["model"]["diffusion"]["input_concat_ids"] = ["sketch"]
    model = create_model_from_config(config)
    plain = set(create_model_from_config(dit_config()).state_dict())
    assert set(model.state_dict()) == plain
    conditions = model.conditioner([{"prompt": "a", "seconds_total": 1, "sketch": clip(length=128)}], "cpu")
    assert model(torch.randn(1, 8, 16), torch.tensor([0.5]), conditions).shape == (1, 8, 16)
    entry = config["model"]["conditioning"]["configs"][-1]["config"]
    entry["pretransform_config"] = {"type": "patchd", "config": {}}
    found = [(mistake.path, mistake.kind) for mistake in check_model_config(config)]
    assert found == [("model.conditioning.configs[2].config.pretransform_config.type", "unknown_type")]


# ---- source_mix ----------------------------------------------------------------------------------------------------------------------


def mixer(**options):
    torch.manual_seed(0)
    return SourceMixConditioner(5, 8000, pretransform_config=PATCHED, source_keys=["drums", "bass"], **options)


def test_mix_is_the_sum_of_what_is_there():
    conditioner = mixer()
    drums, bass = clip(seed=1), clip(seed=2)
    embedding, mask = conditioner([{"drums": drums, "bass": bass}, {"drums": drums, "other": bass}], "cpu")
    parts = [head(audio.view(1, 8, 8).transpose(1, 2)) for head, audio in zip(conditioner.source_heads, (drums, bass), strict=True)]
    torch.testing.assert_close(embedding, torch.cat([parts[0] + parts[1], parts[0]]))
    assert mask.shape == (2, 8)


def test_mix_keys():
    keys = {"source_heads.0.weight", "source_heads.0.bias", "source_heads.1.weight", "source_heads.1.bias"}
    assert set(mixer().state_dict()) == keys | {"proj_out.weight", "proj_out.bias"}
    same = SourceMixConditioner(8, 8000, pretransform_config=PATCHED, source_keys=["drums"], allow_null_source=True, source_length=4)
    assert set(same.state_dict()) == {"source_heads.0.weight", "source_heads.0.bias", "null_source"}
    assert same([{}], "cpu").embedding.shape == (1, 8, 4)  # without a projection, too


def test_mix_of_latents():
    drums = clip()
    latents = drums.view(1, 8, 8).transpose(1, 2)[0]
    assert torch.equal(mixer(pre_encoded=True)([{"drums": latents}], "cpu").embedding, mixer()([{"drums": drums}], "cpu").embedding)


def test_mix_of_nothing():
    conditioner = mixer(allow_null_source=True, source_length=8)
    embedding = conditioner([{}, {"bass": clip()}], "cpu").embedding
    assert torch.equal(embedding[0], conditioner.null_source.expand(5, 8))
    with pytest.raises(DataError, match="item 1 has none of drums, bass; it has: vocals"):
        mixer()([{"bass": clip()}, {"vocals": clip()}], "cpu")
    with pytest.raises(DataError, match="item 0: expected an object from names to audio, got 'drums'"):
        mixer()(["drums"], "cpu")
    with pytest.raises(ConfigError, match="allow_null_source needs source_length"):
        mixer(allow_null_source=True)
