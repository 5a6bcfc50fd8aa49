"""Autoencoders and patches as pretransforms."""

import pytest
import torch

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.families import PRETRANSFORMS
from stable_audio_tools.models import create_model_from_config
from stable_audio_tools.models.factory import create_pretransform_from_config
from stable_audio_tools.models.pretransforms import PatchedPretransform, Pretransform


@pytest.fixture
def build(oobleck_config):
    def make(bottleneck="tanh", **options):
        torch.manual_seed(0)
        block = {"type": "autoencoder", "config": oobleck_config(bottleneck=bottleneck)["model"], **options}
        return create_pretransform_from_config(block, 8000)

    return make


def test_an_autoencoder_takes_its_facts_from_the_model(build):
    pretransform = build()
    assert (pretransform.downsampling_ratio, pretransform.encoded_channels, pretransform.io_channels) == (8, 4, 1)
    assert pretransform.sample_rate == 8000
    assert not pretransform.enable_grad and not pretransform.is_discrete
    assert not pretransform.training and not any(parameter.requires_grad for parameter in pretransform.parameters())
    assert all(name.startswith("model.") for name in pretransform.state_dict())


def test_enable_grad_trains_it(build):
    pretransform = build(enable_grad=True)
    assert pretransform.enable_grad and all(parameter.requires_grad for parameter in pretransform.parameters())


@pytest.mark.parametrize("options", [{}, {"iterate_batch": True}, {"chunked": True}])
@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_scale_divides_latents_and_is_undone(build, options, scale):
    plain, pretransform = build().model, build(scale=scale, **options)
    audio = torch.randn(2, 1, 8 * 150) * 0.5  # longer than one chunk of 128 frames
    latents = pretransform.encode(audio)
    torch.testing.assert_close(latents * scale, plain.encode(audio), atol=1e-4, rtol=0)
    torch.testing.assert_close(pretransform.decode(latents), plain.decode(plain.encode(audio)), atol=1e-4, rtol=0)


def test_half_keeps_the_model_small_and_its_surroundings_in_float32(build):
    exact, half = build(), build(model_half=True)
    assert {parameter.dtype for parameter in half.model.parameters()} == {torch.float16}
    audio = torch.randn(1, 1, 80) * 0.5
    latents = half.encode(audio)
    assert latents.dtype == torch.float32 and half.decode(latents).dtype == torch.float32
    torch.testing.assert_close(latents, exact.encode(audio), atol=5e-3, rtol=5e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_half_survives_a_cast_of_the_model_around_it(build, dtype):
    """``model.to(dtype)``, as generation does, casts the autoencoder too."""
    pretransform = build(model_half=True).to(dtype)
    latents = pretransform.encode(torch.randn(1, 1, 80, dtype=dtype))
    assert pretransform.decode(latents.to(dtype)).shape == (1, 1, 80)


def test_loading_a_state_dict_means_the_autoencoders(build, oobleck_config):
    torch.manual_seed(7)
    trained = create_model_from_config(oobleck_config(bottleneck="tanh"))
    pretransform = build()
    pretransform.load_state_dict(trained.state_dict())
    audio = torch.randn(1, 1, 80)
    torch.testing.assert_close(pretransform.encode(audio), trained.encode(audio))
    with pytest.raises(RuntimeError, match="Unexpected key"):
        pretransform.load_state_dict({f"model.{name}": tensor for name, tensor in trained.state_dict().items()})


def test_a_model_around_it_still_loads_it_by_its_full_names(dit_config, oobleck_config):
    block = {"type": "autoencoder", "config": oobleck_config(bottleneck="tanh")["model"]}
    config = dit_config(pretransform=block, io_channels=4)
    first, second = create_model_from_config(config), create_model_from_config(config)
    second.load_state_dict(first.state_dict(), strict=True)
    assert any(name.startswith("pretransform.model.encoder.") for name in first.state_dict())
    assert all(torch.equal(tensor, second.state_dict()[name]) for name, tensor in first.state_dict().items())


@pytest.mark.parametrize("name", sorted(set(PRETRANSFORMS.names()) - {"autoencoder", "dac_pretrained", "audiocraft_pretrained"}))
def test_what_is_not_discrete_says_so(name):
    configs = {"patched": {"channels": 1, "patch_size": 4}, "wavelet": {"channels": 1, "levels": 2, "wavelet": "bior2.2"}}
    pretransform = create_pretransform_from_config({"type": name, "config": configs.get(name, {})}, 8000)
    assert isinstance(pretransform, Pretransform) and not pretransform.is_discrete
    with pytest.raises(NotImplementedError, match="is not discrete"):
        pretransform.tokenize(torch.zeros(1, 1, 8))
    with pytest.raises(NotImplementedError, match="is not discrete"):
        pretransform.decode_tokens(torch.zeros(1, 1, 8))


# ---- patches -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 4, 5, 7, 8, 100])
@pytest.mark.parametrize("channels", [1, 2])
def test_patches_are_inverted_exactly_for_every_length(length, channels):
    pretransform = PatchedPretransform(channels, 4)
    audio = torch.randn(2, channels, length)
    patches = pretransform.encode(audio)
    assert patches.shape == (2, channels * 4, -(-length // 4)) and patches.shape[1] == pretransform.encoded_channels
    decoded = pretransform.decode(patches)
    assert torch.equal(decoded[..., :length], audio) and not decoded[..., length:].any()
    assert torch.equal(pretransform.encode(decoded), patches)


def test_patches_are_consecutive_samples_channel_by_channel():
    audio = torch.stack([torch.arange(8.0), torch.arange(8.0) + 100])[None]
    expected = [[0, 4], [1, 5], [2, 6], [3, 7], [100, 104], [101, 105], [102, 106], [103, 107]]
    assert PatchedPretransform(2, 4).encode(audio)[0].tolist() == expected


# ---- mistakes ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"type": "pathced"}, "pretransform: type: unknown pretransform 'pathced'; did you mean 'patched'"),
        ({"type": "patched", "config": {"channels": 1}}, "config.*patch_size.*required"),
        ({"type": "patched", "config": {"channels": 1, "patchsize": 3, "patch_size": 4}}, "config.patchsize: unknown key; did you mean"),
        ({"type": "mel", "config": {"latent_dim": 9, "num_mels": 4}}, r"latent_dim can be at most .* = 8, got 9"),
    ],
)
def test_mistakes_in_a_block(block, message):
    with pytest.raises(ConfigError, match=message):
        create_pretransform_from_config(block, 8000)


def test_mistakes_inside_the_autoencoder_of_a_block(oobleck_config):
    model = oobleck_config()["model"]
    model["latent_dim"] = 5
    with pytest.raises(ConfigError, match=r"pretransform: config.encoder.config.latent_dim: is 8, but must be 10 \(2 x latent_dim"):
        create_pretransform_from_config({"type": "autoencoder", "config": model}, 8000)
