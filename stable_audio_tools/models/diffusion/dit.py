"""DiT: a diffusion transformer over latent frames. After Peebles & Xie 2022, arXiv:2212.09748."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.families import BACKBONES
from stable_audio_tools.models.diffusion.inputs import ConditioningInputs
from stable_audio_tools.models.layers.embeddings import FourierFeatures
from stable_audio_tools.models.layers.transformer import ContinuousTransformer
from stable_audio_tools.registry import Options
from stable_audio_tools.sampling.guidance import guide
from stable_audio_tools.sampling.objectives import objective


def _embedder(width_in: int, width_out: int, *, bias: bool = False) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width_in, width_out, bias=bias), nn.SiLU(), nn.Linear(width_out, width_out, bias=bias))


class DiffusionTransformer(nn.Module):
    """Predicts v or velocity from noisy latents, a time and conditions.

    Args:
        io_channels: Channels of the latents.
        patch_size: Latent frames per token.
        embed_dim: Width of the transformer.
        cond_token_dim: Width of the cross-attention condition; 0 is no cross-attention.
        project_cond_tokens: Project it to ``embed_dim`` rather than keeping its width.
        global_cond_dim: Width of the global condition; 0 is none.
        project_global_cond: Project it to ``embed_dim`` rather than keeping its width, which must then be ``embed_dim``.
        input_concat_dim: Channels concatenated to the input; 0 is none.
        prepend_cond_dim: Width of the prepended condition; 0 is none.
        depth: Transformer blocks.
        num_heads: Attention heads.
        transformer_type: The one there is.
        global_cond_type: Put the global condition before the sequence, or modulate every block with it.
        timestep_cond_type: Add the time to the global condition, or concatenate it to the input.
        timestep_embed_dim: Width of the time embedding, if it is concatenated.
        diffusion_objective: What is predicted; decides which noise level a time is when guidance is limited to an interval.
        **transformer: Options of the `ContinuousTransformer`.
    """

    def __init__(
        self,
        *,
        io_channels: int = 32,
        patch_size: int = 1,
        embed_dim: int = 768,
        cond_token_dim: int = 0,
        project_cond_tokens: bool = True,
        global_cond_dim: int = 0,
        project_global_cond: bool = True,
        input_concat_dim: int = 0,
        prepend_cond_dim: int = 0,
        depth: int = 12,
        num_heads: int = 8,
        transformer_type: Literal["continuous_transformer"] = "continuous_transformer",
        global_cond_type: Literal["prepend", "adaLN"] = "prepend",
        timestep_cond_type: Literal["global", "input_concat"] = "global",
        timestep_embed_dim: int | None = None,
        diffusion_objective: str = "v",
        **transformer: Annotated[Any, Options("ContinuousTransformer")],
    ) -> None:
        super().__init__()
        if embed_dim % num_heads:
            raise ConfigError(f"dit: embed_dim must be a multiple of num_heads, got {embed_dim} and {num_heads}")
        if timestep_cond_type == "input_concat" and timestep_embed_dim is None:
            raise ConfigError('dit: timestep_cond_type "input_concat" needs timestep_embed_dim')
        if global_cond_dim and not project_global_cond and global_cond_dim != embed_dim:
            raise ConfigError(f"dit: without project_global_cond, global_cond_dim must be embed_dim, got {global_cond_dim} and {embed_dim}")
        self.io_channels = io_channels
        self.patch_size = patch_size
        self.cond_token_dim = cond_token_dim
        self.global_cond_type = global_cond_type
        self.timestep_cond_type = timestep_cond_type
        self.objective = objective(diffusion_objective)

        time_width = embed_dim if timestep_cond_type == "global" or timestep_embed_dim is None else timestep_embed_dim
        self.timestep_features = FourierFeatures(1, 256)
        self.to_timestep_embed = _embedder(256, time_width, bias=True)
        token_width = embed_dim if project_cond_tokens else cond_token_dim
        if cond_token_dim:
            self.to_cond_embed = _embedder(cond_token_dim, token_width)
        if global_cond_dim:
            self.to_global_embed = _embedder(global_cond_dim, embed_dim)
        if prepend_cond_dim:
            self.to_prepend_embed = _embedder(prepend_cond_dim, embed_dim)
        width_in = io_channels + input_concat_dim + (time_width if timestep_cond_type == "input_concat" else 0)
        self.transformer = ContinuousTransformer(
            dim=embed_dim,
            depth=depth,
            dim_in=width_in * patch_size,
            dim_out=io_channels * patch_size,
            dim_heads=embed_dim // num_heads,
            cross_attend=cond_token_dim > 0,
            cond_token_dim=token_width if cond_token_dim else None,
            global_cond_dim=embed_dim if global_cond_type == "adaLN" else None,
            **transformer,
        )
        self.preprocess_conv = nn.Conv1d(width_in, width_in, 1, bias=False)
        self.postprocess_conv = nn.Conv1d(io_channels, io_channels, 1, bias=False)
        nn.init.zeros_(self.preprocess_conv.weight)
        nn.init.zeros_(self.postprocess_conv.weight)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        cross_attn_cond: Tensor | None = None,
        cross_attn_cond_mask: Tensor | None = None,
        negative_cross_attn_cond: Tensor | None = None,
        negative_cross_attn_mask: Tensor | None = None,
        input_concat_cond: Tensor | None = None,
        global_embed: Tensor | None = None,
        prepend_cond: Tensor | None = None,
        prepend_cond_mask: Tensor | None = None,
        cfg_scale: float = 1.0,
        cfg_dropout_prob: float = 0.0,
        cfg_interval: Sequence[float] = (0.0, 1.0),
        scale_phi: float = 0.0,
        mask: Tensor | None = None,
        return_info: bool = False,
        exit_layer_ix: int | None = None,
    ) -> Any:
        """Predict, with dropped conditions (training) or guidance (inference).

        Masks are accepted and have no effect: published models attend to all positions, whose padding the conditioners zero.

        Args:
            x: Noisy latents (B, D, L).
            t: Times (B,) in [0, 1].
            cross_attn_cond: (B, S, cond_token_dim)
            cross_attn_cond_mask: (B, S); no effect.
            negative_cross_attn_cond: (B, S, cond_token_dim): what guidance pushes away from; None is zeros.
            negative_cross_attn_mask: (B, S): its padding is zeroed.
            input_concat_cond: (B, input_concat_dim, L'), stretched to L by repetition.
            global_embed: (B, global_cond_dim)
            prepend_cond: (B, P, prepend_cond_dim)
            prepend_cond_mask: (B, P); no effect.
            cfg_scale: Guidance scale; 1 is none.
            cfg_dropout_prob: Probability of dropping an item's conditions, when there is no guidance.
            cfg_interval: Noise levels (low, high) in [0, 1] between which guidance acts; the first item decides for the batch.
            scale_phi: How much guidance is rescaled to the conditional spread.
            mask: (B, L); no effect.
            return_info: Also return a dict with ``hidden_states`` and, under guidance, ``uncond_output``.
            exit_layer_ix: Return the hidden states (B, P + L, embed_dim) after this block instead.

        Returns:
            (B, D, L), or that and the dict.
        """
        dtype = next(self.parameters()).dtype
        x, t = x.to(dtype), t.to(dtype)
        inputs = ConditioningInputs(
            cross_attn=cross_attn_cond, global_cond=global_embed, input_concat=input_concat_cond, prepend=prepend_cond
        ).to(dtype)
        if exit_layer_ix is not None:
            return self._predict(x, t, inputs, return_info=return_info, exit_layer_ix=exit_layer_ix)
        if cfg_dropout_prob > 0 and cfg_scale == 1.0:
            inputs = inputs.dropped(cfg_dropout_prob)
        if cfg_scale == 1.0 or not inputs.is_guidable or not self._is_within(t, cfg_interval):
            return self._predict(x, t, inputs, return_info=return_info)
        doubled = inputs.with_null(negative_cross_attn_cond, negative_cross_attn_mask)
        output = self._predict(torch.cat([x, x]), torch.cat([t, t]), doubled, return_info=return_info)
        prediction, info = output if return_info else (output, {})
        conditional, unconditional = prediction.chunk(2)
        guided = guide(conditional, unconditional, cfg_scale, rescale_phi=scale_phi)
        return (guided, {**info, "uncond_output": unconditional}) if return_info else guided

    def _is_within(self, t: Tensor, interval: Sequence[float]) -> bool:
        if tuple(interval) == (0.0, 1.0):
            return True  # without reading t, which would wait for the device
        return bool(interval[0] <= float(self.objective.alpha_sigma(t[0])[1]) <= interval[1])

    def _predict(
        self, x: Tensor, t: Tensor, inputs: ConditioningInputs, *, return_info: bool = False, exit_layer_ix: int | None = None
    ) -> Any:
        """One pass, without guidance: (B, D, L) -> (B, D, L)."""
        cross_attn = None if inputs.cross_attn is None else self.to_cond_embed(inputs.cross_attn)  # (B, S, K)
        global_cond = None if inputs.global_cond is None else self.to_global_embed(inputs.global_cond)  # (B, E)
        prepend = None if inputs.prepend is None else self.to_prepend_embed(inputs.prepend)  # (B, P, E)
        if inputs.input_concat is not None:
            concat = inputs.input_concat
            if concat.shape[-1] != x.shape[-1]:
                concat = F.interpolate(concat, x.shape[-1], mode="nearest")
            x = torch.cat([x, concat], dim=1)  # (B, D + C, L)
        time = self.to_timestep_embed(self.timestep_features(t[:, None]))  # (B, E)
        if self.timestep_cond_type == "global":
            global_cond = time if global_cond is None else global_cond + time
        else:
            x = torch.cat([x, time[..., None].expand(-1, -1, x.shape[-1])], dim=1)
        if self.global_cond_type == "prepend" and global_cond is not None:
            token = global_cond[:, None]  # (B, 1, E)
            prepend = token if prepend is None else torch.cat([prepend, token], dim=1)
        num_prepended = 0 if prepend is None else prepend.shape[1]

        x = self.preprocess_conv(x) + x
        x = rearrange(x, "b c (l p) -> b l (c p)", p=self.patch_size)
        output = self.transformer(
            x,
            prepend_embeds=prepend,
            context=cross_attn,
            global_cond=global_cond if self.global_cond_type == "adaLN" else None,
            return_info=return_info,
            exit_layer_ix=exit_layer_ix,
        )
        hidden, info = output if return_info else (output, {})
        if exit_layer_ix is None:
            hidden = rearrange(hidden[:, num_prepended:], "b l (c p) -> b c (l p)", p=self.patch_size)
            hidden = self.postprocess_conv(hidden) + hidden
        return (hidden, info) if return_info else hidden


@BACKBONES.register("dit", multiple_keys=("patch_size",), concat_key="input_concat_dim")
class DiTWrapper(nn.Module):
    """A `DiffusionTransformer` that takes the condition names of `ConditionedDiffusionModelWrapper`.

    Args:
        diffusion_objective: What is predicted.
        **dit: Options of the `DiffusionTransformer`.
    """

    def __init__(self, diffusion_objective: str = "v", **dit: Annotated[Any, Options("DiffusionTransformer")]) -> None:
        super().__init__()
        self.model = DiffusionTransformer(diffusion_objective=diffusion_objective, **dit)

    @property
    def length_multiple(self) -> int:
        """Latent lengths must be a multiple of this."""
        return self.model.patch_size

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
