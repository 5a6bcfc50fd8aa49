"""From a ``bottleneck`` block to a module."""

from __future__ import annotations

from stable_audio_tools.config.model import BottleneckBlock
from stable_audio_tools.families import BOTTLENECKS
from stable_audio_tools.models.bottlenecks.base import Bottleneck


def build_bottleneck(block: BottleneckBlock) -> Bottleneck:
    """Build a bottleneck; ``requires_grad: false`` freezes it."""
    return BOTTLENECKS.build(block.type, block.config).requires_grad_(block.requires_grad)
