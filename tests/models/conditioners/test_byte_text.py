"""The byte-level text encoder."""

import pytest
import torch

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.models.conditioners import ByteTextConditioner

TEXTS = ["kick", "", "a warm pad, slowly rising", "x", "Große Trommel", "鼓 🥁 ドラム", "a" * 200]


@pytest.fixture
def conditioner():
    torch.manual_seed(0)
    return ByteTextConditioner(12, max_length=32, embed_dim=16, depth=2, num_heads=2).eval()


def bytes_in(text):
    return min(len(text.encode()), 32)


def test_shape_mask_and_zero_padding(conditioner):
    embedding, mask = conditioner(TEXTS, "cpu")
    assert embedding.shape == (len(TEXTS), 32, 12) and mask.shape == (len(TEXTS), 32) and mask.dtype == torch.bool
    assert mask.sum(dim=1).tolist() == [bytes_in(text) for text in TEXTS]
    assert not embedding[~mask].any() and embedding[mask].any(dim=-1).all()


@pytest.mark.parametrize("with_grad", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_an_item_does_not_depend_on_the_rest_of_the_batch(conditioner, with_grad, training):
    """Torch has a fast path for inference; it and padding must not show."""
    conditioner.train(training)
    with torch.set_grad_enabled(with_grad):
        together = conditioner(TEXTS, "cpu").embedding
        for text, row in zip(TEXTS, together, strict=True):
            torch.testing.assert_close(conditioner([text], "cpu").embedding[0], row, atol=1e-5, rtol=0)
        torch.testing.assert_close(conditioner(TEXTS[::-1], "cpu").embedding, together.flip(0), atol=1e-5, rtol=0)


def test_different_texts_differ_and_equal_texts_agree(conditioner):
    embedding = conditioner(["snare drum", "drum snare", "snare drum"], "cpu").embedding
    assert torch.allclose(embedding[0], embedding[2], atol=1e-6)
    assert (embedding[0] - embedding[1]).abs().max() > 1e-2


def test_long_text_is_cut(conditioner):
    long = "b" * 32
    assert torch.equal(conditioner([long + "c"], "cpu").embedding, conditioner([long], "cpu").embedding)


def test_empty_texts_are_zero(conditioner):
    embedding, mask = conditioner(["", ""], "cpu")
    assert not embedding.any() and not mask.any()


@pytest.mark.parametrize("text", ["\x00\x01", "\ud800 lone surrogate", "نص", "\U0001f941", 3.5])
def test_anything_that_can_be_written(conditioner, text):
    embedding, mask = conditioner([text], "cpu")
    assert torch.isfinite(embedding).all() and mask.any()


def test_tokens_are_utf8_bytes():
    ids = ByteTextConditioner(4, max_length=6, embed_dim=4, depth=1, num_heads=1).tokenize(["aé", "", "\x00"])
    assert ids.tolist() == [[97, 195, 169, 256, 256, 256], [256] * 6, [0, 256, 256, 256, 256, 256]]


def test_gradient_reaches_every_parameter(conditioner):
    conditioner.train()(["kick drum", "pad"], "cpu").embedding.square().sum().backward()
    for name, parameter in conditioner.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
    assert conditioner.byte_embedder.weight.grad[ord("k")].any()
    assert not conditioner.byte_embedder.weight.grad[256].any()  # padding is not learned


@pytest.mark.parametrize(("options", "has_projection"), [({}, False), ({"project_out": True}, True), ({"output_dim": 7}, True)])
def test_projects_only_if_needed(options, has_projection):
    conditioner = ByteTextConditioner(**{"output_dim": 16, "embed_dim": 16, "depth": 1, "num_heads": 2, **options})
    assert ("proj_out.weight" in conditioner.state_dict()) is has_projection


def test_half_precision(conditioner):
    exact = conditioner(TEXTS, "cpu").embedding
    half = conditioner.bfloat16()(TEXTS, "cpu").embedding
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), exact, atol=0.1, rtol=0.1)


@pytest.mark.parametrize("options", [{"embed_dim": 15}, {"kernel_size": 4}])
def test_impossible_settings(options):
    with pytest.raises(ConfigError, match="'byte_text': embed_dim must be a multiple of num_heads and kernel_size odd, got"):
        ByteTextConditioner(**{"output_dim": 8, "embed_dim": 16, "num_heads": 2, **options})
