"""The contract of backbones: the networks that denoise.

A backbone is an `nn.Module` ``(x (B, C, L), t (B,), **conditions) -> (B, C, L)`` with an attribute ``length_multiple`` (L must be a
multiple of it) and, if it is unconditional, ``io_channels`` (C). Conditional ones are a `Backbone`, take the names that
`ConditionedDiffusionModelWrapper.get_conditioning_inputs` returns, and refuse what they have no use for.

What a backbone states in its registration lets configs be checked before anything is built: ``multiple_keys``, whose values or elements
multiply to ``length_multiple``; ``levels_key``, one more than the elements that count; ``channels_key``, which holds C; ``concat_key``, the
channels of the concatenated condition; and ``hides_padding`` if it takes ``padding_mask``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from stable_audio_tools.errors import AudioError, ConfigError
from stable_audio_tools.families import BACKBONES, UNCOND_BACKBONES

# What a caller may say about guidance to any backbone, guided or not.
GUIDANCE = {
    "negative_cross_attn_cond", "negative_cross_attn_mask", "negative_global_cond", "negative_input_concat_cond", "cfg_scale",
    "cfg_dropout_prob", "cfg_interval", "batch_cfg", "rescale_cfg", "scale_phi",
}  # fmt: skip


class Backbone(nn.Module):
    """A conditional backbone. What is the same at every step of a generation can be computed once, in `prepare`."""

    def prepare(self, conditions: Mapping[str, Any], length: int) -> dict[str, Any]:
        """Replace conditions by what `forward` makes of them.

        Args:
            conditions: Keyword arguments of `forward`.
            length: L, latent frames.

        Returns:
            Keyword arguments of `forward` with the same meaning.
        """
        return dict(conditions)


def prepared(backbone: Any, conditions: Mapping[str, Any], length: int) -> dict[str, Any]:
    """What `Backbone.prepare` makes of conditions; the same ones for networks that are none."""
    return backbone.prepare(conditions, length) if isinstance(backbone, Backbone) else dict(conditions)


def refuse(backbone: str, given: Mapping[str, Any]) -> None:
    """Complain about conditions that a backbone has no use for.

    Raises:
        ConfigError: If one is not None.
    """
    unused = [name for name, value in given.items() if value is not None]
    if unused:
        raise ConfigError(f"backbone {backbone!r} does not take {', '.join(unused)}")


def check_signal(backbone: str, x: Tensor, channels: int, multiple: int = 1) -> None:
    """Complain about what a backbone cannot denoise.

    Raises:
        AudioError: If it is not (B, ``channels``, L), with L a multiple of ``multiple``.
    """
    if x.dim() != 3 or x.shape[1] != channels or x.shape[2] % multiple or not x.shape[2]:
        length = "length" if multiple == 1 else f"multiple of {multiple}"
        raise AudioError(f"backbone {backbone!r} takes a signal of the shape (batch, {channels}, {length}), got {tuple(x.shape)}")


__all__ = ["BACKBONES", "GUIDANCE", "UNCOND_BACKBONES", "Backbone", "check_signal", "prepared", "refuse"]
