"""Heads that score hidden states: shapes, names of weights, limits."""

import pytest
import torch

from stable_audio_tools.errors import ConfigError, DataError
from stable_audio_tools.families import ARC_HEADS
from stable_audio_tools.models.arc import ConvDiscriminator, ConvNeXtDiscriminator

SMALL = {"channels": 4, "latent_dim": 2, "c_mults": [1, 2], "strides": [1, 2], "num_blocks": [2, 1]}


@pytest.mark.parametrize(("frames", "scores"), [(64, 1), (128, 5), (256, 13)])
def test_conv_halves_four_times(frames, scores):
    head = ConvDiscriminator(32)
    assert head(torch.randn(2, 32, frames)).shape == (2, 1, scores)
    weights = {key: tuple(value.shape) for key, value in head.state_dict().items()}
    assert weights == {
        **{f"layers.{index}.weight": (32, 32, 4) for index in (0, 3, 6, 9)},
        **{f"layers.{index}.bias": (32,) for index in (0, 1, 3, 4, 6, 7, 9, 10)},
        **{f"layers.{index}.weight": (32,) for index in (1, 4, 7, 10)} | {"layers.12.weight": (1, 32, 4), "layers.12.bias": (1,)},
    }


def test_conv_scores_can_be_limited():
    torch.manual_seed(0)
    plain = ConvDiscriminator(32)
    limited = ConvDiscriminator(32, soft_clip_scale=0.01)
    limited.load_state_dict(plain.state_dict())
    x = torch.randn(2, 32, 128)
    torch.testing.assert_close(limited(x), 0.01 * torch.tanh(plain(x) / 0.01))


def test_conv_can_be_of_another_width_and_score_between_its_strides():
    torch.manual_seed(0)
    head = ConvDiscriminator(48, hidden_dim=64, anti_aliased=True)
    assert head.layers[0].weight.shape == (64, 48, 4) and head.layers[12].weight.shape == (1, 64, 4)
    plain = ConvDiscriminator(48, hidden_dim=64)
    plain.load_state_dict(head.state_dict())
    x = torch.randn(2, 48, 128)
    scores = head(x)
    assert scores.shape == (4, 1, 5)
    torch.testing.assert_close(scores[:2], plain(x))
    torch.testing.assert_close(scores[2:], plain(torch.cat([x[..., -1:], x[..., :-1]], dim=-1)))


def test_conv_says_what_it_cannot_take():
    with pytest.raises(ConfigError, match=r"^ARC head 'conv' needs a multiple of 32 channels, got 48; give such a hidden_dim, or use"):
        ConvDiscriminator(48)
    with pytest.raises(DataError, match=r"^ARC head 'conv' needs at least 64 latent frames, got 63; use longer clips, or 'convnext'$"):
        ConvDiscriminator(32)(torch.zeros(1, 32, 63))


def test_convnext_weights_have_the_published_names():
    head = ConvNeXtDiscriminator(in_channels=16, **SMALL)
    names = {key.removesuffix("_g").removesuffix("_v").removesuffix(".bias").removesuffix(".weight") for key in head.state_dict()}
    units = {f"encoder.layers.{stage}.layers.{unit}" for stage, unit in ((0, 0), (0, 1), (1, 0))}
    convolutions = {f"{unit}.{part}" for unit in units for part in ("dw_conv", "proj_up", "proj_down")}
    assert names == convolutions | {"encoder.proj_in", "encoder.layers.2", "encoder.layers.0.downsample", "encoder.layers.1.downsample"}
    shapes = {key: tuple(value.shape) for key, value in head.state_dict().items()}
    assert shapes["encoder.proj_in.weight_v"] == (4, 16, 7)
    assert shapes["encoder.layers.0.layers.0.dw_conv.weight_v"] == (4, 1, 7)
    assert shapes["encoder.layers.1.downsample.weight_v"] == (8, 4, 4)
    assert shapes["encoder.layers.2.weight_v"] == (2, 8, 3)


@pytest.mark.parametrize("glu", [False, True])
def test_convnext_learns_the_same_with_recomputation(glu):
    """Blocks are recomputed in the backward pass if asked; the gradients are those of a plain pass."""
    torch.manual_seed(0)
    head = ConvNeXtDiscriminator(16, **SMALL, conv_args={"mult": 2, "glu": glu})
    x = torch.randn(2, 16, 32)
    gradients = []
    for is_on in (True, False):
        for part in head.modules():
            if hasattr(part, "checkpointing"):
                part.checkpointing = is_on
        head.zero_grad()
        scores = head(x)
        assert scores.shape[:2] == (2, 2)
        scores.square().mean().backward()
        gradients.append([parameter.grad.clone() for parameter in head.parameters()])
    for one, other in zip(*gradients, strict=True):
        assert one.abs().sum() > 0
        torch.testing.assert_close(one, other)


def test_configs_of_heads_are_checked():
    def mistakes(name, config):
        return {(".".join(map(str, m.location)), m.kind) for m in ARC_HEADS.check(name, config)}

    assert mistakes("convnext", SMALL) == set()
    assert {place for place, _ in mistakes("convnext", {**SMALL, "strides": [1]})} == {"strides"}
    assert mistakes("convnext", {"chanels": 4}) == {("chanels", "unknown_key")}
    assert mistakes("convnext", {"conv_args": {"glue": True}}) == {("conv_args.glue", "unknown_key")}
    assert mistakes("conv", {"loss_type": "relativistic"}) == {("loss_type", "warning")}
    with pytest.raises(ConfigError, match="c_mults, strides and num_blocks have 2, 1 and 2 items"):
        ConvNeXtDiscriminator(16, **{**SMALL, "strides": [2]})
