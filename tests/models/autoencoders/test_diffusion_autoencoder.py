"""Diffusion autoencoders, with and without encoder, decoder and pretransform."""

import copy

import pytest
import torch
import torch.nn.functional as F

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.models import create_model_from_config
from stable_audio_tools.models.autoencoders import AudioAutoencoder, DiffusionAutoencoder
from stable_audio_tools.models.factory import create_diffAE_from_config
from stable_audio_tools.sampling.objectives import objective

ENCODER = {"type": "oobleck", "config": {"in_channels": 1, "channels": 4, "c_mults": [1, 2], "strides": [2, 4], "latent_dim": 4}}
DECODER = {"type": "oobleck", "config": {"out_channels": 3, "channels": 4, "c_mults": [1, 2], "strides": [2, 2], "latent_dim": 4}}
UNET = {
    "in_channels": 1, "channels": 8, "resnet_groups": 4, "multipliers": [1, 1], "factors": [4], "num_blocks": [1], "attentions": [0],
    "context_channels": [4],
}  # fmt: skip
DENOISERS = {
    "DAU1d": {"io_channels": 1, "cond_dim": 4, "depth": 2, "channels": [16, 16], "strides": [2], "n_attn_layers": 0},
    "adp_1d": UNET,
    "dit": {"io_channels": 1, "input_concat_dim": 4, "embed_dim": 16, "depth": 1, "num_heads": 2, "diffusion_objective": "v"},
}
CONCAT = {"DAU1d": "cond_dim", "adp_1d": "context_channels", "dit": "input_concat_dim"}
MULTIPLE = {"DAU1d": 2, "adp_1d": 4, "dit": 1}


def config(name="DAU1d", *, decoder=False, encoder=True, pretransform=None, bottleneck="tanh", **changes):
    diffusion = copy.deepcopy(DENOISERS[name])
    model = {
        "bottleneck": {"type": bottleneck}, "diffusion": {"type": name, "config": diffusion}, "latent_dim": 4, "downsampling_ratio": 8,
        "io_channels": 1,
    }  # fmt: skip
    if encoder:
        model["encoder"] = copy.deepcopy(ENCODER)
    if decoder:
        model["decoder"] = copy.deepcopy(DECODER)
        diffusion[CONCAT[name]] = [3] if name == "adp_1d" else 3
    if pretransform:
        model["pretransform"] = pretransform
    return {"model_type": "diffusion_autoencoder", "sample_rate": 8000, "sample_size": 256, "audio_channels": 1, "model": model | changes}


def build(*args, **options):
    torch.manual_seed(0)
    return create_model_from_config(config(*args, **options))


@pytest.mark.parametrize("decoder", [False, True])
@pytest.mark.parametrize("name", DENOISERS)
def test_there_and_back(name, decoder):
    model = build(name, decoder=decoder).eval()
    assert isinstance(model, DiffusionAutoencoder) and isinstance(model, AudioAutoencoder)
    assert model.min_length == 8 * MULTIPLE[name] and model.downsampling_ratio == 8
    audio = torch.randn(2, 1, 128)
    latents = model.encode(audio)
    assert latents.shape == (2, 4, 16)
    torch.manual_seed(3)
    decoded = model.decode(latents, steps=3)
    assert decoded.shape == audio.shape and decoded.isfinite().all()
    torch.manual_seed(3)
    assert torch.equal(model.decode_audio(latents, steps=3), decoded)
    torch.manual_seed(3)
    assert not torch.allclose(model.decode(-latents, steps=3), decoded)  # latents are heard
    assert not torch.allclose(model.decode(latents, steps=3), decoded)  # and noise is drawn
    keys = {key.split(".")[0] for key in model.state_dict()}
    assert keys == {"encoder", "diffusion"} | ({"decoder"} if decoder else set())
    assert any(key.startswith("diffusion.model.") for key in model.state_dict())


@pytest.mark.parametrize("decoder", [False, True])
@pytest.mark.parametrize("name", DENOISERS)
def test_a_few_steps_lower_the_loss_of_a_batch_and_saving_changes_nothing(name, decoder):
    model = build(name, decoder=decoder).train()
    audio = torch.randn(4, 1, 64) * torch.linspace(0, 1, 64)
    t, noise = torch.tensor([0.1, 0.4, 0.7, 0.95]), torch.randn(audio.shape)
    alpha, sigma = (value[:, None, None] for value in objective("v").alpha_sigma(t))
    x_t, target = audio * alpha + noise * sigma, noise * alpha - audio * sigma

    def predict(model):
        return model.diffusion(x_t, t, input_concat_cond=model.concat_condition(model.encode(audio)))

    optimizer = torch.optim.Adam(model.parameters(), lr=5e-4)
    losses = []
    for _ in range(12):
        loss = (predict(model) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[1] < losses[0] and losses[-1] < 0.98 * losses[0]
    assert all(parameter.grad is not None for parameter in model.encoder.parameters())
    other = create_model_from_config(config(name, decoder=decoder))
    other.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(predict(model.eval()), predict(other.eval()))


@pytest.mark.parametrize("decoder", [False, True])
def test_what_the_denoiser_is_told(decoder):
    model = build(decoder=decoder).eval()
    latents = torch.randn(1, 4, 6)
    told = model.bottleneck.decode(latents)
    told = F.interpolate(model.decoder(told) if decoder else told, 48, mode="nearest")
    assert torch.equal(model.concat_condition(latents), told)


def test_the_encoder_starts_at_half_weight():
    """With weight norm: half the gain and half the direction, so half the weight."""
    model = build()
    torch.manual_seed(0)
    from stable_audio_tools.models.autoencoders import OobleckEncoder

    plain = OobleckEncoder(**ENCODER["config"])
    for a, b in zip(plain.parameters(), model.encoder.parameters(), strict=True):
        assert torch.equal(a / 2, b)
    torch.testing.assert_close(model.encoder.layers[0].weight, plain.layers[0].weight / 2)


def test_latents_without_an_encoder_are_the_audio():
    data = config(encoder=False)
    data["model"] |= {"latent_dim": 1, "downsampling_ratio": 1, "bottleneck": {"type": "tanh", "config": {"scale": 2.0}}}
    data["model"]["diffusion"]["config"]["cond_dim"] = 1
    model = create_model_from_config(data).eval()
    audio = torch.randn(1, 1, 16)
    torch.testing.assert_close(model.encode(audio), torch.tanh(audio / 2) * 2)
    assert model.decode(model.encode(audio), steps=2).shape == audio.shape


def test_behind_a_pretransform_everything_counts_its_frames():
    bands = {"type": "wavelet", "config": {"channels": 2, "levels": 1, "wavelet": "bior2.2"}}
    data = config(pretransform=bands, io_channels=4)
    data["model"]["encoder"]["config"]["in_channels"] = 4
    data["model"]["diffusion"]["config"]["io_channels"] = 4
    model = create_model_from_config(data).eval()
    assert (model.in_channels, model.out_channels, model.io_channels) == (2, 2, 4)
    assert (model.downsampling_ratio, model.samples_per_latent, model.min_length) == (8, 16, 32)
    audio = torch.randn(1, 2, 320)
    latents = model.encode(audio)
    assert latents.shape == (1, 4, 20) and model.decode(latents, steps=2).shape == audio.shape
    assert model.preprocess_audio_for_encoder(torch.randn(1, 100), 4000).shape == (1, 2, 224)
    chunked = model.encode_audio(audio, chunked=True, chunk_size=10, overlap=4)
    assert chunked.shape == latents.shape
    assert model.decode_audio(latents, chunked=True, chunk_size=10, overlap=4, steps=2).shape == audio.shape


def test_one_item_at_a_time_draws_other_noise_and_is_as_good():
    model = build().eval()
    latents = torch.randn(2, 4, 4)
    torch.manual_seed(0)
    first = model.decode(latents, iterate_batch=True, steps=2)
    torch.manual_seed(0)
    alone = model.decode(latents[:1], steps=2)
    torch.testing.assert_close(first[:1], alone)
    assert first.shape == (2, 1, 32)


def test_frozen_parts_and_the_kept_factory():
    data = config(decoder=True)
    data["model"]["encoder"]["requires_grad"] = False
    model = create_diffAE_from_config({key: value for key, value in data.items() if key != "model_type"})
    assert not any(p.requires_grad for p in model.encoder.parameters()) and all(p.requires_grad for p in model.decoder.parameters())


# ---- mistakes ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"downsampling_ratio": 4}, r"downsampling_ratio: is 4, but encoder.config.strides \[2, 4\] multiply to 8"),
        ({"latent_dim": 5}, r"encoder.config.latent_dim: is 4, but must be 5 \(latent_dim\)"),
        ({"io_channels": 2}, r"encoder.config.in_channels: is 1, but the model has 2 \(io_channels\)"),
        ({"io_channels": 2}, "diffusion.config.io_channels: is 1, but model.io_channels is 2"),
        ({"encoder": None}, "latent_dim: is 4, but must be io_channels without an encoder"),
        ({"encoder": None}, "downsampling_ratio: is 8, but must be 1 without an encoder"),
        ({"decoder": DECODER}, r"diffusion.config.cond_dim: is 4, but 3 channels are concatenated \(decoder.config.out_channels\)"),
        ({"diffusion": {"type": "adp_1d", "config": UNET | {"context_channels": []}}},
         r"diffusion.config.context_channels: is \[\], but 4 channels are concatenated \(latent_dim\)"),
        ({"pretransform": {"type": "wavelet", "config": {"channels": 1, "levels": 2, "wavelet": "bior2.2"}}},
         r"io_channels: is 1, but the pretransform gives 4 channels \(its channels \* 2\^levels\)"),
    ],
)  # fmt: skip
def test_conflicts(change, message):
    data = config()
    data["model"] |= change
    with pytest.raises(ConfigError, match=message):
        create_model_from_config(data)
