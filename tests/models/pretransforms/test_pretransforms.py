"""Autoencoders and patches as pretransforms."""

import pytest
import torch

from stable_audio_tools.config.check import parse_model_config
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


def tone(frequency, length, channels=2):
    """Below the resampler's roll-off, fading in and out so that it has no edges: (1, C, T)."""
    time = torch.arange(length, dtype=torch.float32)
    wave = torch.sin(2 * torch.pi * frequency * time) * torch.hann_window(length)
    return wave.expand(1, channels, length)


@pytest.mark.parametrize("oversampling", [2, 3])
@pytest.mark.parametrize("frequency", [0.01, 0.1, 0.3])
def test_oversampled_patches_are_inverted_in_the_pass_band(oversampling, frequency):
    pretransform = PatchedPretransform(2, 12, oversampling=oversampling)
    audio = tone(frequency, 600)
    patches = pretransform.encode(audio)
    ratio = 12 // oversampling
    assert pretransform.downsampling_ratio == ratio and patches.shape == (1, 24, 600 // ratio)
    decoded = pretransform.decode(patches)
    assert decoded.shape == audio.shape
    assert (decoded - audio).square().mean() < 1e-4 * audio.square().mean()  # -40 dB; six zero crossings give no more


@pytest.mark.parametrize("length", [1, 5, 6, 7, 100])
def test_oversampled_lengths_round_up_to_whole_steps(length):
    pretransform = PatchedPretransform(1, 12, oversampling=2, postfilter_channels=4)
    patches = pretransform.encode(torch.randn(2, 1, length))
    assert patches.shape[-1] == -(-length // 6)
    assert pretransform.decode(patches).shape == (2, 1, 6 * patches.shape[-1])


def test_oversampling_interpolates():
    upsampler = PatchedPretransform(1, 4, oversampling=4).input_upsampler
    fine = tone(0.05, 2000, channels=1)
    torch.testing.assert_close(upsampler(fine[..., ::4]), fine, atol=2e-3, rtol=0)


def test_keys_of_oversampled_and_filtered_patches():
    assert not PatchedPretransform(2, 4).state_dict()
    keys = {key: tuple(value.shape) for key, value in PatchedPretransform(2, 4, 2, postfilter_channels=6).state_dict().items()}
    assert keys["input_upsampler.kernel"] == (2, 1, 15) and keys["output_downsampler.kernel"] == (1, 1, 28)
    filters = {key.removeprefix("postfilter."): shape for key, shape in keys.items() if key.startswith("postfilter.")}
    assert filters["0.weight_v"] == (6, 2, 7) and filters["0.bias"] == (6,)
    assert filters["4.weight_v"] == (2, 6, 7) and filters["4.weight_g"] == (2, 1, 1) and "4.bias" not in filters
    assert {key.split(".", 1)[1] for key in filters if key.startswith("2.")} == {
        "layers.0.alpha", "layers.0.beta", "layers.1.weight_g", "layers.1.weight_v", "layers.1.bias",
        "layers.2.alpha", "layers.2.beta", "layers.3.weight_g", "layers.3.weight_v", "layers.3.bias",
    }  # fmt: skip


def test_a_postfilter_learns_if_asked_to():
    block = {"type": "patched", "config": {"channels": 1, "patch_size": 4, "postfilter_channels": 4}, "enable_grad": True}
    pretransform = create_pretransform_from_config(block, 8000)
    pretransform.decode(torch.randn(1, 4, 8)).square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in pretransform.postfilter[0].parameters())
    frozen = create_pretransform_from_config({**block, "enable_grad": False}, 8000)
    assert not any(parameter.requires_grad for parameter in frozen.parameters())


def test_oversampling_counts_in_checks(dit_config):
    block = {"type": "patched", "config": {"channels": 1, "patch_size": 8, "oversampling": 2}}
    config = parse_model_config({**dit_config(pretransform=block, io_channels=8), "audio_channels": 1})
    assert config.model.pretransform.ratio() == 4 and config.model.pretransform.width() == 8
    model = create_model_from_config(dit_config(pretransform=block, io_channels=8))
    assert model.pretransform.downsampling_ratio == 4 and model.pretransform.encoded_channels == 8


# ---- mistakes ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"type": "pathced"}, "pretransform: type: unknown pretransform 'pathced'; did you mean 'patched'"),
        ({"type": "patched", "config": {"channels": 1}}, "config.*patch_size.*required"),
        ({"type": "patched", "config": {"channels": 1, "patchsize": 3, "patch_size": 4}}, "config.patchsize: unknown key; did you mean"),
        (
            {"type": "patched", "config": {"channels": 1, "patch_size": 4, "oversampling": 3}},
            "config.patch_size: is 4, but must be a multiple of oversampling, which is 3",
        ),
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
