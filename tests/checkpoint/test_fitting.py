"""Tensors that a model has under several names, and weights that are assigned to a model without memory."""

import pytest
import torch
from safetensors.torch import load_file, load_model, save_model
from torch import nn

from stable_audio_tools.checkpoint import (
    compare_state_dict,
    copy_state_dict,
    initialise_from,
    load_model_weights,
    load_pretransform_weights,
    save_model_weights,
)
from stable_audio_tools.checkpoint.fitting import assign_state_dict, with_aliases
from stable_audio_tools.errors import CheckpointError
from stable_audio_tools.models import create_model_from_config
from stable_audio_tools.models.factory import create_pretransform_from_config
from stable_audio_tools.models.layers.parameters import without_weights
from stable_audio_tools.models.pretrained import get_pretrained_model

TOKENS = 2


@pytest.fixture(scope="module")
def config(oobleck_config):
    def make(is_shared: bool = True):
        made = oobleck_config()
        made["model"]["encoder"]["config"]["latent_dim"] = 4
        options = {"dim": 4, "codebook_size": 8, "num_quantizers": 3, "kmeans_init": False, "shared_codebook": is_shared}
        made["model"]["bottleneck"] = {"type": "rvq", "config": options}
        return made

    return make


@pytest.fixture(scope="module")
def stored(tmp_path_factory, config):
    """A model with a shared codebook, and its file as safetensors' ``save_model`` writes it."""
    torch.manual_seed(0)
    model = create_model_from_config(config())
    path = tmp_path_factory.mktemp("shared") / "model.safetensors"
    save_model(model, str(path))
    return model, path


class Tied(nn.Module):
    """An embedding whose weight is the output layer's too."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5)
        self.head.weight = self.embedding.weight

    def forward(self, x):
        return self.head(self.embedding(x))


def same(model, other):
    ours, theirs = model.state_dict(), other.state_dict()
    return set(ours) == set(theirs) and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_file_has_one_name_of_several(stored):
    model, path = stored
    assert len(load_file(path)) < len(model.state_dict())


@pytest.mark.parametrize("load", [load_model_weights, lambda m, p: initialise_from(m, p, min_share=1.0)])
def test_shared_codebooks_load_from_one_name(config, stored, load):
    model, path = stored
    torch.manual_seed(1)
    other = create_model_from_config(config())
    report = load(other, path)
    assert report.is_complete and not report.unexpected
    assert same(other, model)
    first, *others = other.bottleneck.quantizer.layers
    assert all(layer._codebook is first._codebook for layer in others)


def test_they_load_into_a_pretransform_and_into_a_model_without_memory(config, stored, tmp_path):
    import json

    model, path = stored
    pretransform = create_pretransform_from_config({"type": "autoencoder", "config": config()["model"]}, 8000)
    assert load_pretransform_weights(pretransform, path).is_complete and same(pretransform.model, model)
    (tmp_path / "model_config.json").write_text(json.dumps(config()))
    (tmp_path / "model.safetensors").write_bytes(path.read_bytes())
    published, _ = get_pretrained_model(tmp_path)
    assert same(published, model)
    assert published.bottleneck.quantizer.layers[1]._codebook is published.bottleneck.quantizer.layers[0]._codebook


def test_our_files_load_with_every_name_and_into_others(config, stored, tmp_path):
    model, _ = stored
    path = save_model_weights(model.state_dict(), tmp_path / "all.safetensors")
    assert set(load_file(path)) == set(model.state_dict())
    other = create_model_from_config(config())
    assert load_model_weights(other, path).is_complete and same(other, model)
    apart = create_model_from_config(config(is_shared=False))  # every stage has its own copy of the codebook
    load_model(apart, str(path))
    assert same(apart, model)


def test_a_model_that_shares_nothing_needs_every_name(config, stored):
    _, path = stored
    apart = create_model_from_config(config(is_shared=False))
    with pytest.raises(CheckpointError, match=r"missing in the file: bottleneck\.quantizer\.layers\.\d\._codebook"):
        load_model_weights(apart, path)


def test_a_missing_tensor_is_still_missing_under_all_its_names():
    report = compare_state_dict(Tied(), {"head.bias": torch.zeros(5)})
    assert report.missing == ["embedding.weight", "head.weight"]
    filled = with_aliases(Tied(), {"head.weight": torch.zeros(5, 3), "stranger": torch.zeros(1)})
    assert set(filled) == {"embedding.weight", "head.weight", "stranger"}


@pytest.mark.parametrize("name", ["embedding.weight", "head.weight"])
@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_tied_weights_stay_tied_when_assigned(name, device):
    wanted = Tied()
    with torch.device(device):
        model = Tied()
    assign_state_dict(model, {name: wanted.embedding.weight.detach(), "head.bias": wanted.head.bias.detach()})
    assert model.head.weight is model.embedding.weight
    x = torch.tensor([0, 3])
    assert torch.equal(model(x), wanted(x))


def test_tied_weights_stay_tied_without_weights():
    with without_weights():
        model = Tied()
    assert model.head.weight is model.embedding.weight and model.head.weight.is_meta
    wanted = Tied()
    assert copy_state_dict(model, wanted.state_dict()).is_complete
    assert same(model, wanted) and model.head.weight is model.embedding.weight
    model.head.weight.data.zero_()
    assert wanted.head.weight.any()  # the file's tensors are not written to
