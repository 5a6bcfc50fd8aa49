"""Activations that are computed again: the same gradients, of less memory."""

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from stable_audio_tools.models.autoencoders.dac import _ResidualUnit
from stable_audio_tools.models.autoencoders.seanet import SEANetEncoder
from stable_audio_tools.models.diffusion.adp.blocks import ResnetBlock1d
from stable_audio_tools.models.diffusion.dau1d import ResConvBlock
from stable_audio_tools.models.layers.recompute import Recomputing
from stable_audio_tools.models.layers.residual import ResidualUnit

BLOCKS = {
    "oobleck": (lambda: ResidualUnit(8, 3, use_snake=True), ()),
    "dac": (lambda: _ResidualUnit(8, 3), ()),
    "seanet": (lambda: SEANetEncoder(8, dimension=4, n_filters=4, ratios=[2], n_residual_layers=3, lstm=0), ()),
    "dance": (lambda: ResConvBlock(8, 8, 8), ()),
    "adp": (lambda: ResnetBlock1d(8, 8, 2, 4), (torch.randn(2, 4),)),
}


def gradients(block, x, *more):
    """Gradients of the parameters and of the input, and how many bytes the backward pass keeps."""
    kept = []
    x = x.clone().requires_grad_()
    block.zero_grad()
    with saved_tensors_hooks(lambda tensor: kept.append(tensor.numel() * tensor.element_size()) or tensor, lambda tensor: tensor):
        loss = block(x, *more).square().mean()
    loss.backward()
    return [x.grad, *(parameter.grad.clone() for parameter in block.parameters())], sum(kept)


@pytest.mark.parametrize("name", BLOCKS)
def test_the_same_gradients_of_less_memory(name):
    torch.manual_seed(0)
    make, more = BLOCKS[name]
    block, x = make().train(), torch.randn(2, 8, 256)
    plain, much = gradients(block, x, *more)
    keys = block.state_dict().keys()
    for module in block.modules():
        if isinstance(module, Recomputing):
            module.checkpointing = True
    recomputed, little = gradients(block, x, *more)
    assert all(torch.equal(a, b) for a, b in zip(plain, recomputed, strict=True))
    assert little < 0.5 * much
    assert block.state_dict().keys() == keys
    _, in_eval_mode = gradients(block.eval(), x, *more)
    assert in_eval_mode == much, "a training setting"
