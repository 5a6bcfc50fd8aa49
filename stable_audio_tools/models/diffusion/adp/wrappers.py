"""The U-Nets as backbones: they take the condition names of `ConditionedDiffusionModelWrapper`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.families import BACKBONES, UNCOND_BACKBONES
from stable_audio_tools.models.diffusion.adp.cfg import UNetCFG1d
from stable_audio_tools.models.diffusion.adp.unet import UNet1d
from stable_audio_tools.models.diffusion.base import GUIDANCE, Backbone, check_signal, refuse
from stable_audio_tools.models.diffusion.inputs import ConditioningInputs
from stable_audio_tools.models.layers.parameters import dtype_of, halve_parameters
from stable_audio_tools.registry import Options

CONDITIONS = {
    "cross_attn_cond": "cross_attn", "cross_attn_mask": "cross_attn_mask", "global_cond": "global_cond",
    "input_concat_cond": "input_concat",
}  # fmt: skip
WITHOUT_EFFECT = ("negative_input_concat_cond", "negative_global_cond", "batch_cfg")
UNCHECKED = ("mask", "prepend_cond_mask", "keys_values")


class _UNetBackbone(Backbone):
    """What conditional U-Nets share."""

    model: UNet1d

    @property
    def length_multiple(self) -> int:
        """Lengths must be a multiple of this."""
        return self.model.length_multiple

    def prepare(self, conditions: Mapping[str, Any], length: int) -> dict[str, Any]:
        """Let the steps of a generation share the keys and values of cross-attention: the first one keeps them.

        Args:
            conditions: Conditions of `forward`.
            length: L; has no effect.
        """
        return {**conditions, "keys_values": {}}


@BACKBONES.register("adp_1d", multiple_keys=("factors", "patch_size"), concat_key="context_channels")
class UNet1DCondWrapper(_UNetBackbone):
    """A `UNet1d` with global and concatenated conditions, and without guidance.

    Args:
        **unet: Options of the `UNet1d`.
    """

    def __init__(self, **unet: Annotated[Any, Options("UNet1d")]) -> None:
        super().__init__()
        self.model = UNet1d(**unet)
        halve_parameters(self.model)

    def forward(self, x: Tensor, t: Tensor, **conditions: Any) -> Tensor:
        """Predict. Options of guidance have no effect: this network is not guided.

        Args:
            x: (B, C, L)
            t: Times (B,).
            **conditions: See `_taken`.

        Raises:
            AudioError: If L is not a multiple of ``length_multiple``.
            ConfigError: If a condition is given that it does not take.
        """
        options = {name: value for name, value in conditions.items() if name not in GUIDANCE}
        taken = _taken("adp_1d", self.model, x, options)
        return self.model(x.to(taken.dtype), t.to(taken.dtype), **taken.conditions)


@BACKBONES.register("adp_cfg_1d", multiple_keys=("factors", "patch_size"), concat_key="context_channels")
class UNetCFG1DWrapper(_UNetBackbone):
    """A `UNetCFG1d`: guided cross-attention, global and concatenated conditions.

    Args:
        **unet: Options of the `UNetCFG1d`.
    """

    def __init__(self, **unet: Annotated[Any, Options("UNetCFG1d")]) -> None:
        super().__init__()
        self.model = UNetCFG1d(**unet)
        halve_parameters(self.model)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        *,
        negative_cross_attn_cond: Tensor | None = None,
        negative_cross_attn_mask: Tensor | None = None,
        cfg_scale: float = 1.0,
        cfg_dropout_prob: float = 0.0,
        rescale_cfg: bool = False,
        scale_phi: float = 0.4,
        **conditions: Any,
    ) -> Tensor:
        """Predict; see `UNetCFG1d.forward`.

        ``negative_input_concat_cond`` and ``negative_global_cond`` have no effect, as published models were sampled; ``batch_cfg`` is
        always on.

        Args:
            x: (B, C, L)
            t: Times (B,).
            negative_cross_attn_cond: (B, S, context_embedding_features): what guidance pushes away from.
            negative_cross_attn_mask: (B, S)
            cfg_scale: Guidance scale; 1 is none.
            cfg_dropout_prob: Probability of dropping an item's condition.
            rescale_cfg: Pull guidance back to the conditional spread,
            scale_phi: by this much.
            **conditions: See `_taken`.

        Raises:
            AudioError: If L is not a multiple of ``length_multiple``.
            ConfigError: If a condition is given that it does not take, or none to attend to.
        """
        if tuple(conditions.get("cfg_interval") or ()) == (0.0, 1.0):
            conditions.pop("cfg_interval")  # which is everywhere, as it is anyway
        taken = _taken("adp_cfg_1d", self.model, x, {name: conditions[name] for name in conditions if name not in WITHOUT_EFFECT})
        if taken.conditions["embedding"] is None:
            raise ConfigError("backbone 'adp_cfg_1d' needs a cross-attention condition: name one in cross_attention_cond_ids")
        negative = ConditioningInputs(cross_attn=negative_cross_attn_cond, cross_attn_mask=negative_cross_attn_mask)
        negative = negative.for_batch(len(x)).to(taken.dtype)
        return self.model(
            x.to(taken.dtype),
            t.to(taken.dtype),
            embedding_scale=cfg_scale,
            embedding_mask_proba=cfg_dropout_prob,
            rescale_cfg=rescale_cfg,
            scale_phi=scale_phi,
            negative_embedding=negative.cross_attn,
            negative_embedding_mask=negative.cross_attn_mask,
            **taken.conditions,
        )


@UNCOND_BACKBONES.register("adp_uncond_1d", channels_key="in_channels", multiple_keys=("factors", "patch_size"))
class UNet1DUncondWrapper(nn.Module):
    """A `UNet1d` that knows nothing but the time.

    Args:
        **unet: Options of the `UNet1d`.
    """

    def __init__(self, **unet: Annotated[Any, Options("UNet1d")]) -> None:
        super().__init__()
        self.model = UNet1d(**unet)
        self.io_channels = self.model.in_channels

    @property
    def length_multiple(self) -> int:
        """Lengths must be a multiple of this."""
        return self.model.length_multiple

    def forward(self, x: Tensor, t: Tensor, **conditions: Any) -> Tensor:
        """(B, C, L) and times (B,) -> (B, C, L); further arguments go to the `UNet1d`."""
        check_signal("adp_uncond_1d", x, self.io_channels, self.length_multiple)
        dtype = dtype_of(self.model)
        return self.model(x.to(dtype), t.to(dtype), **conditions)


class _Taken(NamedTuple):
    dtype: torch.dtype
    conditions: dict[str, Any]  # by the names of the `UNet1d`


def _taken(backbone: str, unet: UNet1d, x: Tensor, given: Mapping[str, Any]) -> _Taken:
    """Conditions by the names of the `UNet1d`, for the batch and in the data type of the network.

    Args:
        backbone: For messages.
        unet: The network.
        x: What it is to denoise, (B, C, L).
        given: ``cross_attn_cond`` (B, S, context_embedding_features) with ``cross_attn_mask`` (B, S), ``global_cond``
            (B, context_features), ``input_concat_cond`` (B, C', L'), which is stretched to L by repetition; ``mask`` (B, L) and
            ``prepend_cond_mask``, which have no effect; ``keys_values``, what steps of a generation share. Others may only be None.
    """
    check_signal(backbone, x, unet.in_channels, unet.length_multiple)
    refuse(backbone, {name: value for name, value in given.items() if name not in (*CONDITIONS, *UNCHECKED)})
    inputs = ConditioningInputs(**{ours: given.get(name) for name, ours in CONDITIONS.items()})
    dtype = dtype_of(unet)
    inputs = inputs.for_batch(len(x)).to(dtype)
    concat = inputs.input_concat
    if concat is not None and concat.shape[-1] != x.shape[-1]:
        concat = F.interpolate(concat, x.shape[-1], mode="nearest")
    conditions = {
        "features": inputs.global_cond,
        "channels_list": None if concat is None else [concat],
        "embedding": inputs.cross_attn,
        "embedding_mask": inputs.cross_attn_mask,
        "keys_values": given.get("keys_values"),
    }
    return _Taken(dtype, conditions)
