"""Kept import path; the classes live in `stable_audio_tools.models.layers`."""

from stable_audio_tools.models.layers.attention import Attention
from stable_audio_tools.models.layers.embeddings import AbsolutePositionalEmbedding, RotaryEmbedding, ScaledSinusoidalEmbedding
from stable_audio_tools.models.layers.feedforward import GLU, ConformerModule, FeedForward
from stable_audio_tools.models.layers.norms import LayerNorm, LayerScale
from stable_audio_tools.models.layers.transformer import ContinuousTransformer
from stable_audio_tools.models.layers.transformer_block import TransformerBlock

__all__ = [
    "GLU", "AbsolutePositionalEmbedding", "Attention", "ConformerModule", "ContinuousTransformer", "FeedForward", "LayerNorm", "LayerScale",
    "RotaryEmbedding", "ScaledSinusoidalEmbedding", "TransformerBlock",
]  # fmt: skip
