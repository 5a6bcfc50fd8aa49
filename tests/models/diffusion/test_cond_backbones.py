"""U-Nets in conditional diffusion models: every backbone trains, saves, and generates through the same calls."""

import copy

import pytest
import torch

from stable_audio_tools.errors import AudioError, ConfigError
from stable_audio_tools.models import create_model_from_config
from stable_audio_tools.models.diffusion.adp.attention import Attention
from stable_audio_tools.sampling.objectives import objective

UNET = {
    "in_channels": 8, "channels": 16, "resnet_groups": 4, "multipliers": [1, 2], "factors": [2], "num_blocks": [1], "attentions": [1],
    "attention_heads": 2, "attention_multiplier": 2, "context_features": 16,
}  # fmt: skip
BACKBONES = {
    "adp_1d": UNET,
    "adp_cfg_1d": UNET | {"context_embedding_features": 16, "context_embedding_max_length": 24},
    "DAU1d": {"io_channels": 8, "depth": 2, "channels": [32, 32], "strides": [2], "n_attn_layers": 1},
}
METADATA = [{"prompt": "kick", "seconds_total": 1}, {"prompt": "a long pad", "seconds_total": 8}]


@pytest.fixture
def config(dit_config):
    def make(name):
        data = dit_config()
        data["model"]["diffusion"] |= {
            "type": name,
            "config": copy.deepcopy(BACKBONES[name]),
            "cross_attention_cond_ids": ["prompt"] if name == "adp_cfg_1d" else [],
            "global_cond_ids": [] if name == "DAU1d" else ["seconds_total"],
        }
        return data

    return make


@pytest.fixture
def build(config):
    def make(name):
        torch.manual_seed(0)
        return create_model_from_config(config(name))

    return make


@pytest.mark.parametrize("name", BACKBONES)
def test_a_few_steps_lower_the_loss_of_a_batch_and_saving_changes_nothing(build, config, name):
    model = build(name).train()
    latents = model.pretransform.encode(torch.randn(2, 1, 128) * torch.linspace(0, 1, 128))
    t, noise = torch.tensor([0.2, 0.8]), torch.randn(latents.shape)
    alpha, sigma = (value[:, None, None] for value in objective("v").alpha_sigma(t))
    x_t, target = latents * alpha + noise * sigma, noise * alpha - latents * sigma

    def predict(model):
        return model(x_t, t, cond=model.conditioner(METADATA, "cpu"), mask=torch.ones(2, 16))

    optimizer = torch.optim.Adam(model.parameters(), lr=5e-4)
    losses = []
    for _ in range(12):
        loss = (predict(model) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[1] < losses[0] and losses[-1] < 0.98 * losses[0]
    other = create_model_from_config(config(name))
    other.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(predict(model.eval()), predict(other.eval()))
    assert any(key.startswith("model.model.") for key in model.state_dict())


@pytest.mark.parametrize("name", BACKBONES)
def test_generation(build, name):
    model = build(name).eval()
    assert model.min_input_length == 16
    options = {"conditioning": METADATA, "batch_size": 2, "steps": 2, "sample_size": 130, "seed": 1, "sampler_type": "v-ddim"}
    audio = model.generate(**options, cfg_scale=3.0)
    assert audio.shape == (2, 1, 128) and audio.isfinite().all()
    assert torch.equal(audio, model.generate(**options, cfg_scale=3.0))
    assert torch.equal(audio, model.generate(**options, cfg_scale=1.0)) == (name != "adp_cfg_1d")


def test_negative_conditions_of_the_guided_one(build):
    model = build("adp_cfg_1d").eval()
    options = {
        "conditioning": METADATA,
        "batch_size": 2,
        "steps": 2,
        "sample_size": 128,
        "seed": 1,
        "sampler_type": "v-ddim",
        "cfg_scale": 3.0,
    }
    plain = model.generate(**options)
    negative = model.generate(**options, negative_conditioning=[{"prompt": "noise", "seconds_total": 1}])
    assert negative.shape == plain.shape and not torch.allclose(plain, negative)


def test_a_condition_that_a_backbone_does_not_take_is_named(dit_config):
    data = dit_config()
    data["model"]["diffusion"] |= {"type": "DAU1d", "config": BACKBONES["DAU1d"]}
    model = create_model_from_config(data)
    with pytest.raises(ConfigError, match="backbone 'DAU1d' does not take cross_attn_cond, cross_attn_mask, global_cond"):
        model.generate(conditioning=METADATA[:1], steps=1, sample_size=128)


@pytest.mark.parametrize("has_time", [False, True])
def test_steps_of_a_generation_share_keys_and_values(build, config, has_time):
    data = config("adp_cfg_1d")
    data["model"]["diffusion"]["config"]["use_xattn_time"] = has_time
    torch.manual_seed(0)
    backbone = create_model_from_config(data).model
    cross = [module for module in backbone.modules() if isinstance(module, Attention) and module.to_kv.in_features == 16][:1]
    calls = []
    cross[0].to_kv.register_forward_hook(lambda *_: calls.append(1))
    conditions = {"cross_attn_cond": torch.randn(2, 5, 16), "global_cond": torch.randn(2, 16)}
    prepared = backbone.prepare(conditions, 16)
    x = torch.randn(2, 8, 16)
    for scale in (3.0, 1.0, 3.0, 1.0):  # without guidance there are half as many items
        for time in (0.9, 0.4):
            t = torch.full((2,), time)
            expected = backbone(x, t, **conditions, cfg_scale=scale)
            calls.clear()
            torch.testing.assert_close(backbone(x, t, **prepared, cfg_scale=scale), expected)
    assert len(calls) == has_time  # the time among the tokens makes them others at every step


@pytest.mark.parametrize("name", BACKBONES)
def test_signals_and_conditions_that_do_not_fit(build, name):
    model = build(name)
    conditions = model.conditioner(METADATA, "cpu")
    with pytest.raises(AudioError, match=rf"backbone '{name}' takes a signal of the shape \(batch, 8, multiple of 2\), got \(2, 8, 15\)"):
        model(torch.zeros(2, 8, 15), torch.zeros(2), conditions)
    if name != "DAU1d":
        with pytest.raises(ConfigError, match=r"is for 2 items, but the batch has 3; give one for each, or one for all"):
            model(torch.zeros(3, 8, 16), torch.zeros(3), conditions)


@pytest.mark.parametrize("name", BACKBONES)
def test_a_network_that_cannot_hide_padding_says_so(config, name):
    data = config(name)
    data["model"]["diffusion"]["mask_padding_attention"] = True
    message = f"mask_padding_attention: a '{name}' network cannot hide padding from itself; only dit can"
    with pytest.raises(ConfigError, match=message):
        create_model_from_config(data)
