"""The diffusion transformer as a conditional backbone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from torch import Tensor

from stable_audio_tools.families import BACKBONES
from stable_audio_tools.models.diffusion.base import Backbone
from stable_audio_tools.models.diffusion.dit import DiffusionTransformer
from stable_audio_tools.registry import Options

RULES = (
    ("multiple", "embed_dim", "num_heads"),
    ("needs", "timestep_cond_type", "input_concat", "timestep_embed_dim"),
    ("odd", "ff_kwargs.conv_kernel_size", "ff_kwargs.use_conv"),
)


@BACKBONES.register("dit", multiple_keys=("patch_size",), concat_key="input_concat_dim", hides_padding=True, rules=RULES)
class DiTWrapper(Backbone):
    """Diffusion transformer, with cross-attention, global, prepended and concatenated conditions.

    Args:
        diffusion_objective: What is predicted.
        modular_local_cond_configs: Local conditions that may be absent, as beside ``config`` in ``diffusion``.
        **dit: Options of the `DiffusionTransformer`.
    """

    def __init__(
        self,
        diffusion_objective: str = "v",
        modular_local_cond_configs: Sequence[Mapping[str, Any]] | None = None,
        **dit: Annotated[Any, Options("DiffusionTransformer")],
    ) -> None:
        super().__init__()
        self.model = DiffusionTransformer(
            diffusion_objective=diffusion_objective, modular_local_cond_configs=modular_local_cond_configs, **dit
        )

    @property
    def length_multiple(self) -> int:
        """Latent lengths must be a multiple of this."""
        return self.model.patch_size

    def prepare(self, conditions: Mapping[str, Any], length: int) -> dict[str, Any]:
        """Do once what all steps of a generation share: replaces cross-attention conditions by their keys and values.

        Args:
            conditions: Conditions of `forward`.
            length: L, latent frames.
        """
        cross_attn = conditions.get("cross_attn_cond")
        if cross_attn is None:
            return dict(conditions)
        names = ("negative_cross_attn_cond", "negative_cross_attn_mask")
        others = {"prepend_cond": conditions.get("prepend_cond"), "global_embed": conditions.get("global_cond")}
        keys_values = self.model.precompute(length, cross_attn, *(conditions.get(name) for name in names), **others)
        kept = {key: value for key, value in conditions.items() if key not in ("cross_attn_cond", *names)}
        return {**kept, "keys_values": keys_values}

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
        batch_cfg: bool = True,
        rescale_cfg: bool = False,
        **options: Any,
    ) -> Any:
        """See `DiffusionTransformer.forward`, which takes ``options``.

        ``negative_input_concat_cond`` and ``negative_global_cond`` have no effect, as published models were sampled: guidance leaves out
        cross-attention and prepended conditions only. ``batch_cfg`` is always on; ``rescale_cfg`` is another backbone's, use ``scale_phi``.
        """
        return self.model(
            x,
            t,
            cross_attn_cond=cross_attn_cond,
            cross_attn_cond_mask=cross_attn_mask,
            negative_cross_attn_cond=negative_cross_attn_cond,
            negative_cross_attn_mask=negative_cross_attn_mask,
            input_concat_cond=input_concat_cond,
            global_embed=global_cond,
            prepend_cond=prepend_cond,
            prepend_cond_mask=prepend_cond_mask,
            **options,
        )
