"""AudioLanguageModel: a language model over the tokens of several codebooks.

Letters: B batch, K codebooks, T tokens per codebook, S steps of the pattern's sequence, V codebook size, D width.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.models.layers.parameters import dtype_of
from stable_audio_tools.models.lm.backbone import ContinuousTransformerAudioLMBackbone
from stable_audio_tools.models.lm.patterns.base import PatternProvider


class LMOutput(NamedTuple):
    """What a language model says about given tokens.

    Attributes:
        logits: (B, K, T, V): of every token, given those before it in the pattern's order. NaN where ``mask`` is False.
        mask: (B, K, T), False for the last tokens of delayed codebooks, which a sequence as long as the given tokens does not reach.
    """

    logits: Tensor
    mask: Tensor


class StepPredictor(Protocol):
    """What `AudioLanguageModelWrapper` asks of its ``lm``."""

    num_quantizers: int
    codebook_size: int
    pattern_provider: PatternProvider

    def __call__(
        self,
        sequence: Tensor,
        prepend_cond: Tensor | None = None,
        prepend_cond_mask: Tensor | None = None,
        cross_attn_cond: Tensor | None = None,
        cross_attn_mask: Tensor | None = None,
        cache: Any = None,
    ) -> Tensor: ...

    def new_cache(self) -> Any: ...


class AudioLanguageModel(nn.Module):
    """One embedding per codebook, summed; a causal transformer; one linear head per codebook.

    Args:
        pattern_provider: In which order tokens are seen and made.
        backbone: The transformer.
        num_quantizers: Codebooks K.
        codebook_size: V
    """

    def __init__(
        self, pattern_provider: PatternProvider, backbone: ContinuousTransformerAudioLMBackbone, num_quantizers: int, codebook_size: int
    ) -> None:
        super().__init__()
        self.pattern_provider = pattern_provider
        self.backbone = backbone
        self.num_quantizers = num_quantizers
        self.codebook_size = codebook_size
        self.masked_token_id = codebook_size  # stands where the pattern has no token
        self.embeds = nn.ModuleList(nn.Embedding(codebook_size + 1, backbone.embed_dim) for _ in range(num_quantizers))
        self.quantizer_heads = nn.ModuleList(nn.Linear(backbone.embed_dim, codebook_size) for _ in range(num_quantizers))

    def forward(
        self,
        sequence: Tensor,
        prepend_cond: Tensor | None = None,
        prepend_cond_mask: Tensor | None = None,
        cross_attn_cond: Tensor | None = None,
        cross_attn_mask: Tensor | None = None,
        cache: Any = None,
    ) -> Tensor:
        """Logits of the next step, at every step of a sequence.

        Args:
            sequence: (B, K, S) of tokens, ``masked_token_id`` where there is none. With a cache, only the steps that are new.
            prepend_cond: (B, P, prepend_cond_dim)
            prepend_cond_mask: (B, P), False on padding.
            cross_attn_cond: (B, N, cross_attn_cond_dim)
            cross_attn_mask: (B, N); no effect, as in published models: conditioners zero their padding.
            cache: Of `new_cache`.

        Returns:
            (B, K, S, V)

        Raises:
            ConfigError: If there are not as many codebooks as the model has.
        """
        if sequence.shape[1] != self.num_quantizers:
            raise ConfigError(f"language model: has {self.num_quantizers} codebooks, but got tokens of {sequence.shape[1]}")
        x = torch.stack([embed(sequence[:, k]) for k, embed in enumerate(self.embeds)]).sum(dim=0)  # (B, S, D)
        dtype = dtype_of(self)
        x = self.backbone(
            x.to(dtype),
            prepend_cond=prepend_cond.to(dtype) if prepend_cond is not None else None,
            prepend_cond_mask=prepend_cond_mask,
            cross_attn_cond=cross_attn_cond.to(dtype) if cross_attn_cond is not None else None,
            cache=cache,
        )
        return torch.stack([head(x) for head in self.quantizer_heads], dim=1)  # (B, K, S, V)

    def new_cache(self) -> Any:
        """An empty cache for one generation."""
        return self.backbone.new_cache()

    def compute_logits(self, codes: Tensor, **conditions: Any) -> LMOutput:
        """Logits of given tokens, for training: see `compute_logits`."""
        return compute_logits(self, codes, **conditions)


def compute_logits(lm: StepPredictor, codes: Tensor, **conditions: Any) -> LMOutput:
    """Logits of given tokens: one pass over the pattern's sequence.

    Args:
        lm: The language model.
        codes: (B, K, T)
        **conditions: For ``lm``.
    """
    pattern = lm.pattern_provider.get_pattern(codes.shape[-1])
    sequence, _ = pattern.build_pattern_sequence(codes, lm.codebook_size, keep_only_valid_steps=True)
    logits, mask = pattern.revert_pattern_logits(lm(sequence, **conditions))
    return LMOutput(logits, mask.expand(codes.shape[0], -1, -1))
