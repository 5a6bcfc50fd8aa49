"""Unconditional diffusion models: backbones and pretransforms of every kind, trained for a moment, saved and sampled."""

import copy

import pytest
import torch

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.inference.generation import generate_diffusion_uncond
from stable_audio_tools.models import create_model_from_config
from stable_audio_tools.models.diffusion import DiffusionModelWrapper, DiTUncondWrapper
from stable_audio_tools.models.factory import create_diffusion_cond_from_config, create_diffusion_uncond_from_config
from stable_audio_tools.sampling.objectives import objective

UNET = {
    "in_channels": 4, "channels": 16, "resnet_groups": 4, "multipliers": [1, 2], "factors": [2], "num_blocks": [1], "attentions": [1],
    "attention_heads": 2, "attention_multiplier": 2,
}  # fmt: skip
BACKBONES = {
    "dit": {"in_channels": 4, "embed_dim": 32, "depth": 1, "num_heads": 2},
    "adp_uncond_1d": UNET,
    "DAU1d": {"io_channels": 4, "depth": 2, "channels": [32, 32], "strides": [2], "n_attn_layers": 1},
}
PATCHES = {"type": "patched", "config": {"channels": 1, "patch_size": 4}}


def config(name, pretransform=PATCHES, **model):
    block = {"type": name, "config": copy.deepcopy(BACKBONES[name]), **model}
    if pretransform is not None:
        block["pretransform"] = pretransform
    return {"model_type": "diffusion_uncond", "sample_rate": 8000, "sample_size": 256, "audio_channels": 1, "model": block}


def build(name, **options):
    torch.manual_seed(0)
    return create_model_from_config(config(name, **options))


@pytest.mark.parametrize("name", BACKBONES)
def test_facts(name):
    model = build(name)
    assert isinstance(model, DiffusionModelWrapper)
    assert (model.io_channels, model.sample_rate, model.sample_size, model.downsampling_ratio) == (4, 8000, 256, 4)
    assert model.min_input_length == 4 * (1 if name == "dit" else 2)
    assert model.diffusion_objective == "v"
    plain = build(name, pretransform=None)
    assert plain.pretransform is None and plain.min_input_length == model.min_input_length // 4


@pytest.mark.parametrize("name", BACKBONES)
def test_a_few_steps_lower_the_loss_of_a_batch_and_saving_changes_nothing(name):
    model = build(name).train()
    latents = model.pretransform.encode(torch.randn(4, 1, 64) * torch.linspace(0, 1, 64))
    t, noise = torch.tensor([0.1, 0.4, 0.7, 0.95]), torch.randn(latents.shape)
    mixing = objective(model.diffusion_objective)
    alpha, sigma = (value[:, None, None] for value in mixing.alpha_sigma(t))
    x_t, target = latents * alpha + noise * sigma, noise * alpha - latents * sigma
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-4)
    losses = []
    for _ in range(12):
        loss = (model(x_t, t) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[1] < losses[0] and losses[-1] < 0.98 * losses[0]
    assert all(parameter.grad is not None for parameter in model.parameters())
    other = create_model_from_config(config(name))
    other.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(model.eval()(x_t, t), other.eval()(x_t, t))


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("with_pretransform", [False, True])
def test_generation(name, with_pretransform):
    model = build(name, pretransform=PATCHES if with_pretransform else None).eval()
    options = {"steps": 3, "batch_size": 2, "sample_size": 100, "sampler_type": "v-ddim", "seed": 5}
    state = torch.get_rng_state()
    audio = generate_diffusion_uncond(model, **options)
    assert torch.equal(torch.get_rng_state(), state)
    length = 100 - 100 % model.min_input_length
    assert audio.shape == (2, 1 if with_pretransform else 4, length) and audio.isfinite().all()
    assert torch.equal(audio, model.generate(**options))
    assert not torch.equal(audio, model.generate(**options | {"seed": 6}))
    latents = model.generate(**options, return_latents=True)
    assert latents.shape == (2, 4, length // model.downsampling_ratio)
    if with_pretransform:
        assert torch.equal(model.pretransform.decode(latents), audio)


@pytest.mark.parametrize("sampler", ["v-ddim", "dpmpp-2m", None])
def test_samplers_and_callbacks(sampler):
    seen = []
    model = build("dit").eval()
    model.generate(steps=4, sample_size=64, seed=0, sampler_type=sampler, callback=lambda step: seen.append(step["i"]))
    assert len(seen) == 4


def test_init_audio_of_another_rate_and_channel_count_is_kept_by_little_noise():
    model = build("dit").eval()
    init = (16000, torch.sin(torch.arange(512) / 20).expand(2, -1))
    options = {"steps": 4, "sample_size": 256, "seed": 0, "sampler_type": "v-ddim", "batch_size": 2, "init_audio": init}
    kept = model.generate(**options, init_noise_level=0.0)
    near, far = (model.generate(**options, init_noise_level=level) for level in (0.05, 1.0))
    assert kept.shape == (2, 1, 256) and torch.equal(kept[0], kept[1])
    assert (near - kept).abs().mean() < 0.3 * (far - kept).abs().mean()


@pytest.mark.parametrize(
    "pretransform",
    [
        {"type": "patched", "config": {"channels": 2, "patch_size": 2}},
        {"type": "wavelet", "config": {"channels": 2, "levels": 1, "wavelet": "bior2.2"}},
        {"type": "pqmf", "config": {"attenuation": 60, "num_bands": 2, "channels": 2}},
    ],
    ids=lambda block: block["type"],
)
def test_pretransforms_without_parameters(pretransform):
    model = build("dit", pretransform=pretransform).eval()
    audio = model.generate(
        steps=2, sample_size=128, seed=0, init_audio=(8000, torch.randn(2, 128)), init_noise_level=0.5, sampler_type="v-ddim"
    )
    assert audio.shape == (1, 2, 128) and audio.isfinite().all()


def test_the_transformer_starts_at_half_weight():
    from stable_audio_tools.models.diffusion import DiffusionTransformer

    sizes = {"embed_dim": 32, "depth": 1, "num_heads": 2}
    torch.manual_seed(0)
    inner = DiffusionTransformer(io_channels=4, **sizes)
    torch.manual_seed(0)
    wrapped = DiTUncondWrapper(4, io_channels=4, **sizes).model
    assert all(torch.equal(a / 2, b) for a, b in zip(inner.parameters(), wrapped.parameters(), strict=True))


@pytest.mark.parametrize("objective", ["v", "rectified_flow"])
def test_the_objective_may_be_named_beside_or_inside_the_config(objective):
    beside = config("dit", diffusion_objective=objective)
    model = create_model_from_config(beside)
    assert model.diffusion_objective == objective and model.generate(steps=2, sample_size=64, seed=0).shape == (1, 1, 64)
    beside["model"]["config"]["diffusion_objective"] = "rf_denoiser"
    with pytest.raises(
        ConfigError, match=rf"diffusion_objective: is 'rf_denoiser', but diffusion_objective beside config is '{objective}'"
    ):
        create_model_from_config(beside)


# ---- mistakes ------------------------------------------------------------------------------------------------------------------------


def test_too_short():
    with pytest.raises(ConfigError, match="sample_size must be at least 8 samples for this model, got 7"):
        build("DAU1d").generate(steps=1, sample_size=7)


def test_an_io_channels_that_says_something_else():
    with pytest.raises(ConfigError, match="io_channels is 3, but in_channels is 4; remove io_channels"):
        DiTUncondWrapper(4, io_channels=3, embed_dim=32, depth=1, num_heads=2)


def test_factories_refuse_other_types():
    assert isinstance(create_diffusion_uncond_from_config(config("dit")), DiffusionModelWrapper)
    with pytest.raises(ConfigError, match="model_type: is 'diffusion_uncond', but must be 'diffusion_cond' here"):
        create_diffusion_cond_from_config(config("dit"))


def test_a_factory_of_this_type_refuses_others(oobleck_config):
    with pytest.raises(ConfigError, match="model_type: is 'autoencoder', but must be 'diffusion_uncond' here"):
        create_diffusion_uncond_from_config(oobleck_config())
