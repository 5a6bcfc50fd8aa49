"""The U-Nets as backbones: they take the condition names of `ConditionedDiffusionModelWrapper`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.families import BACKBONES, UNCOND_BACKBONES
from stable_audio_tools.models.diffusion.adp.attention import KeysValues
from stable_audio_tools.models.diffusion.adp.cfg import UNetCFG1d
from stable_audio_tools.models.diffusion.adp.unet import UNet1d
from stable_audio_tools.models.diffusion.base import GUIDANCE, Backbone, refuse
from stable_audio_tools.models.layers.parameters import dtype_of, halve_parameters
from stable_audio_tools.registry import Options


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

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        *,
        input_concat_cond: Tensor | None = None,
        global_cond: Tensor | None = None,
        cross_attn_cond: Tensor | None = None,
        cross_attn_mask: Tensor | None = None,
        prepend_cond: Tensor | None = None,
        prepend_cond_mask: Tensor | None = None,
        mask: Tensor | None = None,
        keys_values: KeysValues | None = None,
        **others: Any,
    ) -> Tensor:
        """Predict. Options of guidance have no effect: this network is not guided.

        Args:
            x: (B, C, L)
            t: Times (B,).
            input_concat_cond: (B, C', L'), stretched to L by repetition.
            global_cond: (B, context_features)
            cross_attn_cond: (B, S, context_embedding_features)
            cross_attn_mask: (B, S)
            prepend_cond: Not taken.
            prepend_cond_mask: Not taken.
            mask: (B, L); no effect.
            keys_values: What steps of a generation share, see `prepare`.
            **others: Those of guidance have no effect; others may only be None.

        Raises:
            ConfigError: If a condition is given that it does not take.
        """
        refuse("adp_1d", {"prepend_cond": prepend_cond} | {name: value for name, value in others.items() if name not in GUIDANCE})
        dtype = dtype_of(self.model)
        return self.model(
            x.to(dtype),
            t.to(dtype),
            features=_cast(global_cond, dtype),
            channels_list=None if input_concat_cond is None else [_stretched(input_concat_cond.to(dtype), x.shape[-1])],
            embedding=_cast(cross_attn_cond, dtype),
            embedding_mask=cross_attn_mask,
            keys_values=keys_values,
        )


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
        cross_attn_cond: Tensor | None = None,
        cross_attn_mask: Tensor | None = None,
        negative_cross_attn_cond: Tensor | None = None,
        negative_cross_attn_mask: Tensor | None = None,
        input_concat_cond: Tensor | None = None,
        negative_input_concat_cond: Tensor | None = None,
        global_cond: Tensor | None = None,
        negative_global_cond: Tensor | None = None,
        prepend_cond: Tensor | None = None,
        prepend_cond_mask: Tensor | None = None,
        cfg_scale: float = 1.0,
        cfg_dropout_prob: float = 0.0,
        batch_cfg: bool = True,
        rescale_cfg: bool = False,
        scale_phi: float = 0.4,
        mask: Tensor | None = None,
        keys_values: KeysValues | None = None,
        **others: Any,
    ) -> Tensor:
        """Predict; see `UNetCFG1d.forward`.

        ``negative_input_concat_cond`` and ``negative_global_cond`` have no effect, as published models were sampled; ``batch_cfg`` is
        always on; ``mask`` has no effect; for ``keys_values`` see `prepare`. ``others`` may only be None.

        Raises:
            ConfigError: If a condition is given that it does not take, or none to attend to.
        """
        if tuple(others.get("cfg_interval") or ()) == (0.0, 1.0):
            others.pop("cfg_interval")  # which is everywhere, as it is anyway
        refuse("adp_cfg_1d", {"prepend_cond": prepend_cond} | others)
        if cross_attn_cond is None:
            raise ConfigError("backbone 'adp_cfg_1d' needs a cross-attention condition: name one in cross_attention_cond_ids")
        dtype = dtype_of(self.model)
        return self.model(
            x.to(dtype),
            t.to(dtype),
            embedding=cross_attn_cond.to(dtype),
            embedding_mask=cross_attn_mask,
            embedding_scale=cfg_scale,
            embedding_mask_proba=cfg_dropout_prob,
            rescale_cfg=rescale_cfg,
            scale_phi=scale_phi,
            negative_embedding=_cast(negative_cross_attn_cond, dtype),
            negative_embedding_mask=negative_cross_attn_mask,
            features=_cast(global_cond, dtype),
            channels_list=None if input_concat_cond is None else [_stretched(input_concat_cond.to(dtype), x.shape[-1])],
            keys_values=keys_values,
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
        dtype = dtype_of(self.model)
        return self.model(x.to(dtype), t.to(dtype), **conditions)


def _cast(tensor: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return tensor if tensor is None else tensor.to(dtype)


def _stretched(tensor: Tensor, length: int) -> Tensor:
    return tensor if tensor.shape[-1] == length else F.interpolate(tensor, length, mode="nearest")
