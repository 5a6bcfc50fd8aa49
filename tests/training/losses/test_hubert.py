"""The semantic loss, with a tiny speech model in a local folder."""

import pytest
import torch

from stable_audio_tools.errors import CheckpointError, ConfigError
from stable_audio_tools.training.losses import HubertLoss


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from transformers import HubertConfig, HubertModel

    torch.manual_seed(0)
    config = HubertConfig(
        hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=16, conv_dim=(8, 8), conv_stride=(5, 4),
        conv_kernel=(10, 8), num_feat_extract_layers=2, num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("hubert")
    HubertModel(config).save_pretrained(path)
    return str(path)


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 0.1


@pytest.mark.parametrize(("ids", "layers", "width"), [(None, 3, 16), ([0, 2], 2, 16), ([-1], 1, 8)])
def test_layers(folder, ids, layers, width):
    features = HubertLoss(ids, model_name=folder).features(noise(2, 2, 2000))
    assert [tuple(feature.shape[::2]) for feature in features] == [(4, width)] * layers


def test_distance_is_relative_to_the_spread_of_the_target(folder):
    x, y = noise(1, 1, 2000), noise(1, 1, 2000, seed=1)
    loss = HubertLoss([1], weight=2.0, model_name=folder)
    assert float(loss(x, x)) == 0
    (a,), (b,) = loss.features(x), loss.features(y)
    assert float(loss(x, y)) == pytest.approx(2 * float((a - b).abs().mean() / (b.std() + 1e-5)), rel=1e-5)


def test_gradients_reach_the_signal_and_not_the_model(folder):
    loss = HubertLoss(model_name=folder)
    x = noise(1, 1, 2000).requires_grad_()
    loss(x, noise(1, 1, 2000, seed=1)).backward()
    assert float(x.grad.abs().sum()) > 0
    assert not list(loss.parameters()) and not loss.state_dict()


def test_resampled_audio_is_what_the_model_was_trained_for(folder):
    """A tone of the same pitch, at another rate: the same features, if it is resampled."""
    tones = [0.3 * torch.sin(2 * torch.pi * 440 / rate * torch.arange(rate // 4)).view(1, 1, -1) for rate in (16000, 32000)]
    at_16k = HubertLoss([0], model_name=folder).features(tones[0])[0]
    resampled = HubertLoss([0], model_name=folder, resample=True, sample_rate=32000).features(tones[1])[0]
    plain = HubertLoss([0], model_name=folder).features(tones[1])[0]
    assert resampled.shape == at_16k.shape and plain.shape[1] > 1.9 * at_16k.shape[1]
    torch.testing.assert_close(resampled[:, 10:-10], at_16k[:, 10:-10], atol=0.02, rtol=0)


def test_wrong_layers_and_models(folder, monkeypatch):
    with pytest.raises(ConfigError, match=r"feature_ids: .* has layers 0 to 2, got 7$"):
        HubertLoss([0, 7], model_name=folder)(noise(1, 1, 2000), noise(1, 1, 2000))
    with pytest.raises(ConfigError, match=r"^loss 'hubert': resample needs a sample_rate$"):
        HubertLoss(resample=True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(CheckpointError, match=r"speech model 'no/such-model': .*set model_name to a folder that holds it$"):
        HubertLoss(model_name="no/such-model")(noise(1, 1, 2000), noise(1, 1, 2000))
