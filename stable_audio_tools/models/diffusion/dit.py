"""DiT: a diffusion transformer over latent frames. After Peebles & Xie 2022, arXiv:2212.09748."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from stable_audio_tools.config.base import NonNegativeInt, PositiveInt
from stable_audio_tools.errors import ConfigError
from stable_audio_tools.models.diffusion.base import check_signal
from stable_audio_tools.models.diffusion.inputs import ConditioningInputs, fit_batch
from stable_audio_tools.models.layers.embeddings import ExpoFourierFeatures, FourierFeatures
from stable_audio_tools.models.layers.kv_cache import Heads
from stable_audio_tools.models.layers.transformer import ContinuousTransformer
from stable_audio_tools.models.layers.transformer_block import LocalCond
from stable_audio_tools.registry import Options
from stable_audio_tools.sampling.guidance import Denoised, guide
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
        timestep_features_type: Time features of ``learned`` frequencies, or of fixed ones in geometric progression (``expo``).
        timestep_features_dim: Number of them, even.
        timestep_features_logsnr: Features of the time's log-SNR instead of the time itself.
        local_add_cond_dim: Channels of the local condition, which is embedded and added in every block; 0 is none.
        modular_local_cond_configs: Further local conditions, which may be absent: a list of ``{"id": ..., "dim": ...}``.
        **transformer: Options of the `ContinuousTransformer`.
    """

    def __init__(
        self,
        *,
        io_channels: PositiveInt = 32,
        patch_size: PositiveInt = 1,
        embed_dim: PositiveInt = 768,
        cond_token_dim: NonNegativeInt = 0,
        project_cond_tokens: bool = True,
        global_cond_dim: NonNegativeInt = 0,
        project_global_cond: bool = True,
        input_concat_dim: NonNegativeInt = 0,
        prepend_cond_dim: NonNegativeInt = 0,
        depth: PositiveInt = 12,
        num_heads: PositiveInt = 8,
        transformer_type: Literal["continuous_transformer"] = "continuous_transformer",
        global_cond_type: Literal["prepend", "adaLN"] = "prepend",
        timestep_cond_type: Literal["global", "input_concat"] = "global",
        timestep_embed_dim: PositiveInt | None = None,
        diffusion_objective: str = "v",
        timestep_features_type: Literal["learned", "expo"] = "learned",
        timestep_features_dim: PositiveInt = 256,
        timestep_features_logsnr: bool = False,
        local_add_cond_dim: NonNegativeInt = 0,
        modular_local_cond_configs: Sequence[Mapping[str, Any]] | None = None,
        **transformer: Annotated[Any, Options("ContinuousTransformer")],
    ) -> None:
        super().__init__()
        if embed_dim % num_heads:
            raise ConfigError(f"dit: embed_dim must be a multiple of num_heads, got {embed_dim} and {num_heads}")
        if timestep_cond_type == "input_concat" and timestep_embed_dim is None:
            raise ConfigError('dit: timestep_cond_type "input_concat" needs timestep_embed_dim')
        if global_cond_dim and not project_global_cond and global_cond_dim != embed_dim:
            raise ConfigError(f"dit: without project_global_cond, global_cond_dim must be embed_dim, got {global_cond_dim} and {embed_dim}")
        if patch_size > 1 and (local_add_cond_dim or modular_local_cond_configs):
            raise ConfigError(f"dit: local conditions are per latent frame, so patch_size must be 1, got {patch_size}")
        self.io_channels = io_channels
        self.patch_size = patch_size
        self.cond_token_dim = cond_token_dim
        self.global_cond_type = global_cond_type
        self.timestep_cond_type = timestep_cond_type
        self.objective = objective(diffusion_objective)

        time_width = embed_dim if timestep_cond_type == "global" or timestep_embed_dim is None else timestep_embed_dim
        self.timestep_features_logsnr = timestep_features_logsnr
        is_learned = timestep_features_type == "learned"
        self.timestep_features = FourierFeatures(1, timestep_features_dim) if is_learned else ExpoFourierFeatures(timestep_features_dim)
        self.to_timestep_embed = _embedder(timestep_features_dim, time_width, bias=True)
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
            local_add_cond_dim=local_add_cond_dim,
            modular_local_cond_dims={item["id"]: item["dim"] for item in modular_local_cond_configs or ()},
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
        cfg_scale: float | Tensor = 1.0,
        cfg_dropout_prob: float = 0.0,
        cfg_interval: Sequence[float] = (0.0, 1.0),
        scale_phi: float = 0.0,
        mask: Tensor | None = None,
        return_info: bool = False,
        exit_layer_ix: int | None = None,
        local_add_cond: Tensor | None = None,
        modular_local_cond: Mapping[str, Tensor] | None = None,
        padding_mask: Tensor | None = None,
        apg_scale: float = 0.0,
        cfg_norm_threshold: float = 0.0,
        keys_values: Sequence[Heads | None] | None = None,
    ) -> Any:
        """Predict, with dropped conditions (training) or guidance (inference).

        Masks of conditions are accepted and have no effect: published models attend to all positions, whose padding the conditioners zero.

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
            cfg_scale: Guidance scale; 1 is none. A tensor (B, 1, 1) is one per item.
            cfg_dropout_prob: Probability of dropping an item's conditions, when there is no guidance.
            cfg_interval: Noise levels (low, high) in [0, 1] between which guidance acts; the first item decides for the batch.
            scale_phi: How much guidance is rescaled to the conditional spread.
            mask: (B, L); no effect.
            return_info: Also return a dict with ``hidden_states`` and, under guidance, ``uncond_output``.
            exit_layer_ix: Return the hidden states (B, P + L, embed_dim) after this block instead.
            local_add_cond: (B, local_add_cond_dim, L)
            modular_local_cond: Further local conditions (B, dim, L) by id; those that are missing add nothing.
            padding_mask: (B, L), False at padding: what is predicted elsewhere does not depend on it.
            apg_scale: How much guidance leaves out what only makes the data louder, see `guide`. Version 0.0.19 guides as with 0, version
                0.0.20 as with 1.
            cfg_norm_threshold: Longest that the change by guidance may be, see `guide`; 0 is no limit.
            keys_values: What `precompute` made of the cross-attention conditions, instead of them.

        Returns:
            (B, D, L), or that and the dict.

        Raises:
            AudioError: If L is not a multiple of ``patch_size``, or D is not ``io_channels``.
            ConfigError: If a condition is for another number of items than ``x``.
        """
        check_signal("dit", x, self.io_channels, self.patch_size)
        dtype = next(self.parameters()).dtype
        x, t = x.to(dtype), t.float()
        inputs = ConditioningInputs(
            cross_attn=cross_attn_cond,
            global_cond=global_embed,
            input_concat=input_concat_cond,
            prepend=prepend_cond,
            keys_values=keys_values,
            local_add=local_add_cond,
            modular_local=modular_local_cond,
            padding_mask=padding_mask,
        )
        inputs = inputs.for_batch(x.shape[0]).to(dtype)
        if exit_layer_ix is not None:
            inputs = inputs.without_negative(x.shape[0])
            return self._predict(x, t, inputs, return_info=return_info, exit_layer_ix=exit_layer_ix)
        is_guided = isinstance(cfg_scale, Tensor) or cfg_scale != 1.0
        if cfg_dropout_prob > 0 and not is_guided:
            inputs = inputs.dropped(cfg_dropout_prob)
        if not is_guided or not inputs.is_guidable or not self._is_within(t, cfg_interval):
            return self._predict(x, t, inputs.without_negative(x.shape[0]), return_info=return_info)
        if negative_cross_attn_cond is not None:
            negative_cross_attn_cond = fit_batch(negative_cross_attn_cond, x.shape[0], "negative_cross_attn_cond")
        doubled = inputs.with_null(negative_cross_attn_cond, negative_cross_attn_mask)
        output = self._predict(torch.cat([x, x]), torch.cat([t, t]), doubled, return_info=return_info)
        prediction, info = output if return_info else (output, {})
        conditional, unconditional = prediction.chunk(2)
        denoised: Denoised | None = None
        if apg_scale or cfg_norm_threshold:
            time = t[:, None, None]  # (B, 1, 1)
            mask = padding_mask[:, None] if padding_mask is not None else None
            data = self.objective.denoised(x.float(), conditional.float(), time)
            denoised = Denoised(data, self.objective.alpha_sigma(time)[1], mask)
        guided = guide(
            conditional,
            unconditional,
            cfg_scale,
            rescale_phi=scale_phi,
            apg_scale=apg_scale,
            norm_threshold=cfg_norm_threshold,
            denoised=denoised,
        )
        return (guided, {**info, "uncond_output": unconditional}) if return_info else guided

    def precompute(
        self,
        length: int,
        cross_attn_cond: Tensor,
        negative_cross_attn_cond: Tensor | None = None,
        negative_cross_attn_mask: Tensor | None = None,
        prepend_cond: Tensor | None = None,
        global_embed: Tensor | None = None,
    ) -> list[Heads | None]:
        """Keys and values of all cross-attentions, for `forward`: the same at every step of a generation.

        Args:
            length: L, latent frames.
            cross_attn_cond: (B, S, cond_token_dim)
            negative_cross_attn_cond: (B, S, cond_token_dim), if generation is guided away from something.
            negative_cross_attn_mask: (B, S): its padding is zeroed.
            prepend_cond: (B, P, prepend_cond_dim), of which the number P counts.
            global_embed: (B, global_cond_dim), which may be prepended too.
        """
        inputs = ConditioningInputs(cross_attn=cross_attn_cond).to(next(self.parameters()).dtype)
        if negative_cross_attn_cond is not None:
            inputs = inputs.with_null(negative_cross_attn_cond, negative_cross_attn_mask)
        has_token = self.global_cond_type == "prepend" and (self.timestep_cond_type == "global" or global_embed is not None)
        num_prepended = (prepend_cond.shape[1] if prepend_cond is not None else 0) + has_token
        return self.transformer.keys_values(self.to_cond_embed(inputs.cross_attn), num_prepended + length // self.patch_size)

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
        time = self.to_timestep_embed(self._time_features(t).to(x.dtype))  # (B, E)
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
        padding_mask = inputs.padding_mask
        if padding_mask is not None and self.patch_size > 1:
            padding_mask = padding_mask.unflatten(-1, (-1, self.patch_size)).any(dim=-1)  # (B, L / patch_size)
        output = self.transformer(
            x,
            prepend_embeds=prepend,
            context=cross_attn,
            global_cond=global_cond if self.global_cond_type == "adaLN" else None,
            return_info=return_info,
            exit_layer_ix=exit_layer_ix,
            keys_values=inputs.keys_values,
            local_cond=_local_cond(inputs, x.shape[1]),
            padding_mask=padding_mask,
        )
        hidden, info = output if return_info else (output, {})
        if exit_layer_ix is None:
            hidden = rearrange(hidden[:, num_prepended:], "b l (c p) -> b c (l p)", p=self.patch_size)
            hidden = self.postprocess_conv(hidden) + hidden
        return (hidden, info) if return_info else hidden

    def _time_features(self, t: Tensor) -> Tensor:
        """(B,) -> (B, timestep_features_dim)"""
        if self.timestep_features_logsnr:
            t = t.clamp(1e-7, 1 - 1e-7)
            t = (5 - torch.log((1 - t) / t).clamp(-12, 5)) / 17  # 0 to 1 again
        if isinstance(self.timestep_features, FourierFeatures):
            t = t.to(self.timestep_features.weight.dtype)
        return self.timestep_features(t[:, None])


def _local_cond(inputs: ConditioningInputs, length: int) -> LocalCond | None:
    """Local conditions (B, C, L') stretched to ``length`` by repetition, time first; None if there are none."""

    def to_steps(condition: Tensor) -> Tensor:
        if condition.shape[-1] != length:
            condition = F.interpolate(condition, length, mode="nearest")
        return condition.transpose(1, 2)  # (B, L, C)

    if inputs.local_add is None and not inputs.modular_local:
        return None
    modular = {name: to_steps(value) for name, value in (inputs.modular_local or {}).items()}
    return LocalCond(to_steps(inputs.local_add) if inputs.local_add is not None else None, modular)
