"""UNetCFG1d: a U-Net that is guided towards an embedding, away from a learned one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import torch
from torch import Tensor

from stable_audio_tools.config.base import PositiveInt
from stable_audio_tools.models.diffusion.adp.attention import KeysValues
from stable_audio_tools.models.diffusion.adp.blocks import FixedEmbedding
from stable_audio_tools.models.diffusion.adp.unet import UNet1d, time_embedding
from stable_audio_tools.registry import Options
from stable_audio_tools.sampling.guidance import guide


class UNetCFG1d(UNet1d):
    """`UNet1d` with classifier-free guidance; the null condition is learned, one vector per position.

    Args:
        context_embedding_max_length: Most tokens of the cross-attention condition.
        context_embedding_features: Width of the cross-attention condition.
        use_xattn_time: Let the time be one more token of it.
        **unet: Options of the `UNet1d`.
    """

    def __init__(
        self,
        *,
        context_embedding_max_length: PositiveInt,
        context_embedding_features: PositiveInt,
        use_xattn_time: bool = False,
        **unet: Annotated[Any, Options("UNet1d")],
    ) -> None:
        super().__init__(context_embedding_features=context_embedding_features, **unet)
        self.to_time_embedding = time_embedding(unet["channels"], context_embedding_features) if use_xattn_time else None
        self.fixed_embedding = FixedEmbedding(context_embedding_max_length + (1 if use_xattn_time else 0), context_embedding_features)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]  # here the embedding is required
        self,
        x: Tensor,
        t: Tensor,
        *,
        embedding: Tensor,
        embedding_mask: Tensor | None = None,
        embedding_scale: float = 1.0,
        embedding_mask_proba: float = 0.0,
        rescale_cfg: bool = False,
        scale_phi: float = 0.4,
        negative_embedding: Tensor | None = None,
        negative_embedding_mask: Tensor | None = None,
        features: Tensor | None = None,
        channels_list: Sequence[Tensor] | None = None,
        keys_values: KeysValues | None = None,
    ) -> Tensor:
        """Predict, with dropped conditions (training) or guidance (inference).

        Args:
            x: (B, in_channels, L)
            t: Times (B,).
            embedding: (B, S, context_embedding_features)
            embedding_mask: (B, S); also used for what guidance pushes away from.
            embedding_scale: Guidance scale; 1 is none.
            embedding_mask_proba: Probability of replacing an item's embedding by the learned one.
            rescale_cfg: Pull guidance back to the conditional spread,
            scale_phi: by this much.
            negative_embedding: What guidance pushes away from; None is the learned embedding.
            negative_embedding_mask: (B, S): its padding becomes the learned embedding.
            features: Global condition.
            channels_list: Concatenated conditions.
            keys_values: Where calls with the same embeddings keep what they share; has no effect if time is one of the tokens.

        Returns:
            (B, out_channels, L)
        """
        embedding, embedding_mask = self._with_time(t, embedding, embedding_mask)
        keys_values = keys_values if self.to_time_embedding is None else None
        fixed = self.fixed_embedding(embedding).to(embedding)
        if embedding_mask_proba > 0:
            is_null = torch.bernoulli(torch.full((len(x), 1, 1), embedding_mask_proba, device=x.device)).bool()
            embedding = torch.where(is_null, fixed, embedding)
        if embedding_scale == 1.0:
            return super().forward(
                x, t, features=features, channels_list=channels_list, embedding=embedding, embedding_mask=embedding_mask,
                keys_values=keys_values,
            )  # fmt: skip
        null = fixed
        if negative_embedding is not None:
            null, null_mask = self._with_time(t, negative_embedding, negative_embedding_mask)
            if null_mask is not None:
                null = torch.where(null_mask.bool()[..., None], null, fixed)
        doubled = super().forward(
            torch.cat([x, x]),
            torch.cat([t, t]),
            features=None if features is None else torch.cat([features, features]),
            channels_list=None if channels_list is None else [torch.cat([tensor, tensor]) for tensor in channels_list],
            embedding=torch.cat([embedding, null]),
            embedding_mask=None if embedding_mask is None else torch.cat([embedding_mask, embedding_mask]),
            keys_values=keys_values,
        )
        conditional, unconditional = doubled.chunk(2)
        return guide(conditional, unconditional, embedding_scale, rescale_phi=scale_phi if rescale_cfg else 0.0)

    def _with_time(self, t: Tensor, embedding: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Embedding (B, S, W) and mask (B, S), with the time as one more token if the network takes it there."""
        if self.to_time_embedding is None:
            return embedding, mask
        token = self.to_time_embedding(t)[:, None]  # (B, 1, W)
        ones = None if mask is None else torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        return torch.cat([embedding, token.to(embedding)], dim=1), ones
