"""T5Gemma text encoders, with a tiny one."""

import pytest
import torch

from stable_audio_tools.errors import CheckpointError
from stable_audio_tools.models.conditioners import T5Conditioner, T5GemmaConditioner
from stable_audio_tools.models.conditioners.t5gemma import load_t5gemma_encoder


@pytest.fixture(scope="module")
def folder(shared, tmp_path_factory):
    """A repository with a tiny T5Gemma in a subfolder, as Stable Audio 3 ships it."""
    from transformers import AutoTokenizer, T5GemmaConfig, T5GemmaEncoderModel

    tokenizer = AutoTokenizer.from_pretrained(shared / "fixtures" / "t5-tiny")
    sizes = {
        "vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 2, "head_dim": 8,
    }  # fmt: skip
    torch.manual_seed(0)
    repo = tmp_path_factory.mktemp("t5gemma")
    config = T5GemmaConfig(encoder=sizes, decoder=sizes, is_encoder_decoder=False, vocab_size=len(tokenizer))
    T5GemmaEncoderModel(config).save_pretrained(repo / "encoder")
    tokenizer.save_pretrained(repo / "encoder")
    return str(repo)


@pytest.fixture
def offline(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))


TEXTS = ["a kick drum", "", "one two three four five six seven eight nine ten eleven twelve"]


@pytest.mark.parametrize("mode", ["zero", "learned", "none"])
def test_padding(folder, mode):
    conditioner = T5GemmaConditioner(8, repo_id=folder, subfolder="encoder", max_length=12, padding_mode=mode)
    with torch.no_grad():
        embedding, mask = conditioner(TEXTS, "cpu")
    assert embedding.shape == (3, 12, 8) and mask.shape == (3, 12) and mask.dtype == torch.bool
    padding = embedding[~mask]
    assert embedding[mask].any(dim=-1).all() and len(padding)
    if mode == "zero":
        assert not padding.any()
    elif mode == "learned":
        assert torch.equal(padding, conditioner.padding_embedding.expand_as(padding))
    else:
        assert padding.any(dim=-1).all()


def test_only_projection_and_padding_are_part_of_the_model(folder):
    learned = T5GemmaConditioner(16, repo_id=folder, subfolder="encoder", padding_mode="learned")
    assert {key: tuple(value.shape) for key, value in learned.state_dict().items()} == {"padding_embedding": (16,)}
    embedding = learned([""], "cpu").embedding
    embedding.sum().backward()
    assert learned.padding_embedding.grad.any()
    assert set(T5GemmaConditioner(8, model_path=folder, subfolder="encoder").state_dict()) == {"proj_out.weight", "proj_out.bias"}


def test_equals_the_encoder_itself_and_ignores_the_rest_of_the_batch(folder):
    conditioner = T5GemmaConditioner(16, repo_id=folder, subfolder="encoder", max_length=12)
    embedding, mask = conditioner(TEXTS, "cpu")
    encoder = load_t5gemma_encoder(conditioner.source).float().eval()
    ids = conditioner.tokenizer(TEXTS[0], return_tensors="pt")["input_ids"]
    with torch.no_grad():
        expected = encoder(input_ids=ids, attention_mask=torch.ones_like(ids))["last_hidden_state"][0]
    torch.testing.assert_close(embedding[0, : int(mask[0].sum())], expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(conditioner(TEXTS[:1], "cpu").embedding[0], embedding[0], atol=1e-5, rtol=0)


def test_a_trained_encoder_is_part_of_the_model_and_gets_gradients(folder):
    conditioner = T5GemmaConditioner(8, repo_id=folder, subfolder="encoder", max_length=4, enable_grad=True)
    assert any(key.startswith("model.") for key in conditioner.state_dict())
    conditioner(["a kick"], "cpu").embedding.sum().backward()
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in conditioner.model.parameters())
    with torch.device("meta"):
        empty = T5GemmaConditioner(8, repo_id=folder, subfolder="encoder", max_length=4, enable_grad=True)
    assert {key: value.shape for key, value in empty.state_dict().items()} == {k: v.shape for k, v in conditioner.state_dict().items()}


def test_builds_without_network_and_says_what_is_missing(offline, tmp_path):
    conditioner = T5GemmaConditioner(
        768, repo_id="stabilityai/stable-audio-3-medium-base", subfolder="t5gemma-b-b-ul2", max_length=256, padding_mode="learned"
    )
    assert set(conditioner.state_dict()) == {"padding_embedding"}
    with pytest.raises(
        CheckpointError, match=r"'stabilityai/stable-audio-3-medium-base/t5gemma-b-b-ul2': it is neither .* set repo_id to a folder"
    ):
        conditioner(["a"], "cpu")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"holds no T5Gemma: config\.json is missing or says no encoder\.hidden_size"):
        T5GemmaConditioner(8, model_path=str(tmp_path))


def test_t5_has_the_same_choice_of_padding(shared):
    folder = str(shared / "fixtures" / "t5-tiny")
    learned = T5Conditioner(8, model_path=folder, padding_mode="learned", max_length=8)
    embedding, mask = learned([""], "cpu")
    assert torch.equal(embedding[~mask], learned.padding_embedding.expand(7, -1))
    assert T5Conditioner(8, model_path=folder, padding_mode="none", max_length=8)([""], "cpu").embedding[~mask].any()
    tokens = learned.tokenizer("a kick", max_length=8, padding="max_length", return_tensors="pt")
    assert torch.equal(learned([dict(tokens)], "cpu").embedding, learned(["a kick"], "cpu").embedding)
