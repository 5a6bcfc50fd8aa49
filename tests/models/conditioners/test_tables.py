"""Conditioners that look vectors up: options, tokens, phonemes."""

import pytest
import torch

from stable_audio_tools.errors import CheckpointError, ConfigError, DataError, MissingExtraError
from stable_audio_tools.models.conditioners import ListConditioner, PhonemeConditioner, TokenizerLUTConditioner
from stable_audio_tools.models.conditioners.phoneme import PHONEMES


@pytest.fixture(scope="module")
def folder(shared):
    return str(shared / "fixtures" / "t5-tiny")


@pytest.fixture
def offline(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))


# ---- list ------------------------------------------------------------------------------------------------------------------------


def test_list_has_a_row_per_option_and_one_for_the_rest():
    conditioner = ListConditioner(4, ["kick", "snare"])
    embedding, mask = conditioner(["snare", "kick", "bird", None, 3], "cpu")
    assert embedding.shape == (5, 1, 4) and torch.equal(mask, torch.ones(5, 1))
    assert torch.equal(embedding[:, 0], conditioner.embedder.weight[[2, 1, 0, 0, 0]])
    assert set(conditioner.state_dict()) == {"embedder.weight"} and conditioner.embedder.weight.shape == (3, 4)


@pytest.mark.parametrize("options", [[], ["a", "b", "a"]])
def test_list_of_impossible_options(options):
    with pytest.raises(ConfigError, match="conditioner 'list': options must be different from each other and at least one, got"):
        ListConditioner(4, options)


# ---- lut -------------------------------------------------------------------------------------------------------------------------


def test_lut_shape_mask_and_keys(folder):
    conditioner = TokenizerLUTConditioner(8, folder, max_length=12)
    embedding, mask = conditioner(["a kick drum", ""], "cpu")
    assert embedding.shape == (2, 12, 8) and mask.shape == (2, 12) and mask.dtype == torch.bool
    assert not embedding[~mask].any() and embedding[mask].any(dim=-1).all()
    ids = torch.tensor([1])  # the end token, which is all that an empty text has
    assert torch.equal(embedding[1, 0], conditioner.token_embedder(ids)[0])
    assert set(conditioner.state_dict()) == {"token_embedder.weight"}


def test_lut_positions_are_added_everywhere(folder):
    conditioner = TokenizerLUTConditioner(8, folder, max_length=12, use_abs_pos_emb=True, project_out=True)
    assert set(conditioner.state_dict()) == {"token_embedder.weight", "abs_pos_emb.emb.weight", "proj_out.weight", "proj_out.bias"}
    embedding, mask = conditioner([""], "cpu")
    torch.testing.assert_close(embedding[0, 1:], conditioner.abs_pos_emb.emb.weight[1:] * 8**-0.5)
    assert int(mask.sum()) == 1


def test_lut_special_tokens_are_one_token_and_do_not_spread(folder):
    plain = TokenizerLUTConditioner(8, folder, max_length=8)
    special = TokenizerLUTConditioner(8, folder, max_length=8, special_tokens=["<drop>"])
    assert len(special.token_embedder.weight) == len(plain.token_embedder.weight) + 1
    assert special(["<drop>"], "cpu").mask.sum() == 2
    assert plain(["<drop>"], "cpu").mask.sum() > 2


def test_lut_takes_tokens_too(folder):
    conditioner = TokenizerLUTConditioner(8, folder, max_length=4)
    tokens = {"input_ids": torch.tensor([[5, 1, 0, 0]]), "attention_mask": [1, 1, 0, 0]}
    embedding, mask = conditioner([tokens, tokens], "cpu")
    assert torch.equal(embedding[1, :2], conditioner.token_embedder.weight[[5, 1]]) and mask[0].tolist() == [True, True, False, False]
    with pytest.raises(DataError, match="some items of the batch are texts and others are tokens"):
        conditioner([tokens, "text"], "cpu")


def test_lut_without_network(offline):
    assert TokenizerLUTConditioner(8, "google/byt5-base").token_embedder.weight.shape == (384, 8)
    with pytest.raises(CheckpointError, match=r"text encoder 'nobody/nothing': .* or set tokenizer_name to a folder"):
        TokenizerLUTConditioner(8, "nobody/nothing")


# ---- phoneme ---------------------------------------------------------------------------------------------------------------------


def test_phonemes_are_looked_up_padded_and_masked():
    conditioner = PhonemeConditioner(8)
    embedding, mask = conditioner([["HH", "AH0", "L", "OW1", " ", "!"], ["ZH"], []], "cpu")
    table = conditioner.phoneme_embedder.weight
    assert table.shape == (76, 8) and len(set(PHONEMES)) == 74
    assert torch.equal(embedding[0], table[[PHONEMES.index(p) + 2 for p in ("HH", "AH0", "L", "OW1")] + [1, 1]])
    assert torch.equal(embedding[1], table[[75] + [0] * 5])
    assert mask.sum(dim=1).tolist() == [6, 1, 0]
    assert set(conditioner.state_dict()) == {"phoneme_embedder.weight"}


def test_long_lists_of_phonemes_are_cut():
    conditioner = PhonemeConditioner(8, max_length=3, project_out=True)
    assert conditioner([["AA0"] * 10, []], "cpu").embedding.shape == (2, 3, 8)
    assert conditioner([[]], "cpu").embedding.shape == (1, 1, 8)


def test_text_needs_a_dictionary():
    conditioner = PhonemeConditioner(8)
    try:
        import g2p_en  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError:
        with pytest.raises(MissingExtraError, match=r"g2p_en is needed for conditioner 'phoneme' on text .*stable-audio-tools\[phoneme\]"):
            conditioner(["hello"], "cpu")
    else:
        assert conditioner(["hello"], "cpu").mask.sum() == 4


def test_what_is_neither_text_nor_phonemes():
    with pytest.raises(DataError, match="conditioner 'phoneme': expected text or a list of phonemes, got 3"):
        PhonemeConditioner(8)([3], "cpu")
