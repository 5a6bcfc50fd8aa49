"""From a ``pretransform`` block to a module."""

from __future__ import annotations

from stable_audio_tools.config.model import PretransformBlock
from stable_audio_tools.families import PRETRANSFORMS
from stable_audio_tools.models.pretransforms.base import Pretransform


def build_pretransform(block: PretransformBlock, sample_rate: int) -> Pretransform:
    """Build a pretransform, in eval mode, frozen unless ``enable_grad``.

    Args:
        block: Its typed config.
        sample_rate: Of the model around it, in Hz.
    """
    config = {} if PRETRANSFORMS.part(block.type).facts.get("trunk") else block.config
    pretransform: Pretransform = PRETRANSFORMS.build(block.type, config, block=block, sample_rate=sample_rate)
    pretransform.enable_grad = block.enable_grad
    return pretransform.eval().requires_grad_(block.enable_grad)
