"""The transformer inside a language model."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from torch import Tensor, nn

from stable_audio_tools.config.base import NonNegativeInt, PositiveInt
from stable_audio_tools.errors import ConfigError
from stable_audio_tools.families import LM_BACKBONES
from stable_audio_tools.models.layers.kv_cache import TransformerCache
from stable_audio_tools.models.layers.transformer import ContinuousTransformer
from stable_audio_tools.registry import Options


@LM_BACKBONES.register(
    "continuous_transformer", rules=(("multiple", "embed_dim", "dim_heads"), ("odd", "ff_kwargs.conv_kernel_size", "ff_kwargs.use_conv"))
)
class ContinuousTransformerAudioLMBackbone(nn.Module):
    """A causal `ContinuousTransformer`. Conditions are attended to, or put before the sequence.


    Args:
        embed_dim: Width D.
        depth: Number of blocks.
        cross_attn_cond_dim: Width of conditions that are attended to; 0 is none.
        prepend_cond_dim: Width of conditions that are put before the sequence; 0 is none.
        project_cross_attn_cond: Bring the conditions that are attended to to width D first.
        dim_heads: Features per head.
        causal_cross_attn: A position sees only as many tokens of the condition as there are positions up to it. Published code had this
            by accident, so weights trained with it need it.
        **transformer: Options of the `ContinuousTransformer`.
    """

    def __init__(
        self,
        embed_dim: PositiveInt,
        depth: PositiveInt,
        cross_attn_cond_dim: NonNegativeInt = 0,
        prepend_cond_dim: NonNegativeInt = 0,
        project_cross_attn_cond: bool = False,
        dim_heads: PositiveInt = 64,
        causal_cross_attn: bool = False,
        **transformer: Annotated[Any, Options("ContinuousTransformer")],
    ) -> None:
        super().__init__()
        _refuse_sight_of_the_future(transformer)
        transformer = {key: value for key, value in transformer.items() if key != "causal"}
        self.embed_dim = embed_dim
        self.depth = depth
        self.cross_attn_cond_dim = cross_attn_cond_dim
        self.prepend_cond_dim = prepend_cond_dim
        self.causal_cross_attn = causal_cross_attn
        token_width = embed_dim if project_cross_attn_cond else cross_attn_cond_dim
        self.model = ContinuousTransformer(
            dim=embed_dim,
            depth=depth,
            dim_in=embed_dim,
            dim_out=embed_dim,
            dim_heads=dim_heads,
            cross_attend=cross_attn_cond_dim > 0,
            cond_token_dim=token_width if cross_attn_cond_dim else None,
            causal=True,
            **transformer,
        )
        if prepend_cond_dim:
            self.to_prepend_embed = _embedder(prepend_cond_dim, embed_dim)
        self.to_cross_attn_embed: nn.Module = nn.Identity()
        if cross_attn_cond_dim and project_cross_attn_cond:
            self.to_cross_attn_embed = _embedder(cross_attn_cond_dim, embed_dim)

    def forward(
        self,
        x: Tensor,
        prepend_cond: Tensor | None = None,
        prepend_cond_mask: Tensor | None = None,
        cross_attn_cond: Tensor | None = None,
        cache: TransformerCache | None = None,
    ) -> Tensor:
        """Transform a sequence, or what continues one.

        Args:
            x: (B, S, D)
            prepend_cond: (B, P, prepend_cond_dim); with a cache, only the first call uses it.
            prepend_cond_mask: (B, P), False on padding.
            cross_attn_cond: (B, N, cross_attn_cond_dim); with a cache, only the first call uses it.
            cache: What earlier calls computed.

        Returns:
            (B, S, D)
        """
        is_first = cache is None or cache.length == 0
        context = None if cross_attn_cond is None else self.to_cross_attn_embed(cross_attn_cond) if is_first else None  # (B, N, D)
        if cache is not None:
            cache.context = context = context if is_first else cache.context
        prepend = self.to_prepend_embed(prepend_cond) if is_first and prepend_cond is not None else None  # (B, P, D)
        out = self.model(
            x,
            prepend_embeds=prepend,
            prepend_mask=prepend_cond_mask if prepend is not None else None,
            context=context,
            context_mask=self._context_mask(x, prepend, context, cache) if self.causal_cross_attn and context is not None else None,
            cache=cache,
        )
        return out[:, prepend.shape[1] :] if prepend is not None else out

    def _context_mask(self, x: Tensor, prepend: Tensor | None, context: Tensor, cache: TransformerCache | None) -> Tensor:
        """(M + P + S, N): position i sees the condition's tokens 0 .. i."""
        start = cache.length if cache is not None else 0
        new = x.shape[1] + (prepend.shape[1] if prepend is not None else 0) + (self.model.num_memory_tokens if start == 0 else 0)
        positions = torch.arange(start, start + new, device=x.device)
        return positions[:, None] >= torch.arange(context.shape[1], device=x.device)[None]

    def new_cache(self) -> TransformerCache:
        """An empty cache for one generation."""
        return TransformerCache(self.depth)


def _refuse_sight_of_the_future(transformer: dict[str, Any]) -> None:
    """Options of the transformer that would let a token see later ones, which it is to predict."""
    seeing = {
        "conformer": transformer.get("conformer"),
        "ff_kwargs.use_conv": (transformer.get("ff_kwargs") or {}).get("use_conv"),
        "attn_kwargs.feat_scale": (transformer.get("attn_kwargs") or {}).get("feat_scale"),
        "causal (false)": transformer.get("causal", True) is False,
    }
    for key, value in seeing.items():
        if value:
            raise ConfigError(f"language model backbone: {key} lets a token see later ones, which a language model must not; leave it out")


def _embedder(width_in: int, width_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width_in, width_out, bias=False), nn.SiLU(), nn.Linear(width_out, width_out, bias=False))
