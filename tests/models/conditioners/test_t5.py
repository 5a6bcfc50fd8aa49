"""T5 text encoders, with a tiny one."""

import pytest
import torch

from stable_audio_tools.errors import CheckpointError
from stable_audio_tools.models.conditioners import T5Conditioner, t5
from stable_audio_tools.models.conditioners.pretrained import Source, frozen
from stable_audio_tools.models.conditioners.t5 import KNOWN_WIDTHS


def source(folder):
    return Source.given(t5_model_name=folder)


def encoder_width(folder):
    return t5.encoder_width(source(folder))


def load_t5_encoder(folder):
    return t5.load_t5_encoder(source(folder))


@pytest.fixture(scope="module")
def folder(shared):
    return str(shared / "fixtures" / "t5-tiny")


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def test_frozen_encoder_is_not_part_of_the_model(folder):
    conditioner = T5Conditioner(8, t5_model_name=folder, max_length=12)
    conditioner(["a kick drum"], "cpu")
    assert set(conditioner.state_dict()) == {"proj_out.weight", "proj_out.bias"}
    assert {name for name, _ in conditioner.named_parameters()} == {"proj_out.weight", "proj_out.bias"}
    encoder = frozen(t5.load_t5_encoder, source(folder), torch.device("cpu"), torch.float32)
    conditioner.train().half().requires_grad_(True)
    assert not encoder.training
    assert {(parameter.dtype, parameter.requires_grad) for parameter in encoder.parameters()} == {(torch.float32, False)}


def test_projection_exists_only_if_widths_differ_or_it_is_asked_for(folder):
    width = encoder_width(folder)
    assert not T5Conditioner(width, t5_model_name=folder).state_dict()
    assert T5Conditioner(width, t5_model_name=folder, project_out=True).state_dict()


def test_encoder_is_loaded_once_per_process(folder, monkeypatch):
    T5Conditioner(8, t5_model_name=folder)(["a"], "cpu")
    monkeypatch.setattr("transformers.T5EncoderModel.from_pretrained", lambda *_, **__: pytest.fail("loaded again"))
    T5Conditioner(16, t5_model_name=folder)(["b"], "cpu")


def test_shape_mask_and_zero_padding(folder):
    conditioner = T5Conditioner(8, t5_model_name=folder, max_length=12)
    embedding, mask = conditioner(["a kick drum", "", "one two three four five six seven eight nine ten eleven twelve"], "cpu")
    assert embedding.shape == (3, 12, 8) and embedding.dtype == torch.float32
    assert mask.shape == (3, 12) and mask.dtype == torch.bool
    assert not embedding[~mask].any() and embedding[mask].any(dim=-1).all()
    assert mask[1].sum() == 1  # the end token: an empty prompt is not the same as no prompt
    assert mask[2].all() and not mask[0].all()


def test_equals_the_encoder_itself(folder):
    from transformers import AutoTokenizer

    width = encoder_width(folder)
    conditioner = T5Conditioner(width, t5_model_name=folder, max_length=16)
    embedding, mask = conditioner(["a kick drum"], "cpu")
    ids = AutoTokenizer.from_pretrained(folder)(["a kick drum"], return_tensors="pt")["input_ids"]
    with torch.no_grad():
        expected = load_t5_encoder(folder).eval()(input_ids=ids)["last_hidden_state"][0]
    assert int(mask.sum()) == len(expected)
    torch.testing.assert_close(embedding[0, : len(expected)], expected, atol=1e-4, rtol=1e-4)


def test_an_item_does_not_depend_on_the_rest_of_the_batch(folder):
    conditioner = T5Conditioner(8, t5_model_name=folder, max_length=12)
    texts = ["a kick drum", "", "birds in a wood at dawn"]
    together = conditioner(texts, "cpu").embedding
    for text, row in zip(texts, together, strict=True):
        torch.testing.assert_close(conditioner([text], "cpu").embedding[0], row, atol=1e-5, rtol=0)


def test_gradient_stops_at_the_frozen_encoder_and_not_at_a_trained_one(folder):
    frozen = T5Conditioner(8, t5_model_name=folder, max_length=8)
    frozen(["a kick"], "cpu").embedding.sum().backward()
    assert frozen.proj_out.weight.grad.any()
    trained = T5Conditioner(8, t5_model_name=folder, max_length=8, enable_grad=True)
    assert any(name.startswith("model.encoder.") for name in trained.state_dict())
    trained(["a kick"], "cpu").embedding.sum().backward()
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in trained.model.parameters())
    assert {parameter.dtype for parameter in trained.model.parameters()} == {torch.float32}


def test_a_half_model_still_gets_a_condition(folder):
    exact = T5Conditioner(8, t5_model_name=folder, max_length=8)
    expected = exact(["a kick"], "cpu").embedding
    torch.testing.assert_close(exact.bfloat16()(["a kick"], "cpu").embedding.float(), expected, atol=0.05, rtol=0.05)


def test_autocast_does_not_change_the_frozen_encoder(folder):
    conditioner = T5Conditioner(encoder_width(folder), t5_model_name=folder, max_length=8)
    expected = conditioner(["a kick"], "cpu").embedding
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(conditioner(["a kick"], "cpu").embedding, expected)


def test_published_encoders_build_without_network(offline):
    for name, width in KNOWN_WIDTHS.items():
        assert T5Conditioner(16, t5_model_name=name).proj_out.weight.shape == (16, width)


@pytest.mark.parametrize("name", ["nobody/no-such-t5", "t5-basee"])
def test_unknown_encoder_without_network(offline, name):
    with pytest.raises(
        CheckpointError, match=rf"text encoder '{name}': it is neither a local folder.*check the name and the network, or set"
    ):
        T5Conditioner(16, t5_model_name=name)


def test_published_encoder_that_is_not_there_fails_on_first_use(offline, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    conditioner = T5Conditioner(16, t5_model_name="google/t5-v1_1-small")
    with pytest.raises(CheckpointError, match="text encoder 'google/t5-v1_1-small': it is neither a local folder nor in the local cache"):
        conditioner(["a kick"], "cpu")


def test_a_folder_without_weights(folder, tmp_path):
    import shutil

    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(f"{folder}/{name}", tmp_path / name)
    conditioner = T5Conditioner(16, t5_model_name=str(tmp_path))
    with pytest.raises(CheckpointError, match=f"text encoder '{tmp_path}'"):
        conditioner(["a kick"], "cpu")
