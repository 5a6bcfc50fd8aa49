"""Condition on text with an encoder that is learned with the model: no tokenizer, no download."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from stable_audio_tools.config.base import PositiveInt
from stable_audio_tools.errors import ConfigError
from stable_audio_tools.families import CONDITIONERS
from stable_audio_tools.models.conditioners.base import Condition, Conditioner, as_text
from stable_audio_tools.models.layers.parameters import dtype_of

PAD = 256  # the first number that is not a byte


@CONDITIONERS.register("byte_text", reads="text", steps="many", rules=(("multiple", "embed_dim", "num_heads"),))
class ByteTextConditioner(Conditioner):
    """A small transformer over UTF-8 bytes: (B, max_length, D), zeros where there is no text. For cross-attention or prepending.

    Bytes are what every text is made of, so any language works and nothing is out of vocabulary. A convolution over neighbouring bytes
    comes first: it makes pieces of words, which the transformer then puts together.

    Args:
        output_dim: Width of the embedding.
        max_length: Longest text, in bytes; longer text is cut.
        embed_dim: Width of the encoder.
        depth: Number of transformer layers.
        num_heads: Attention heads.
        kernel_size: Bytes that the convolution sees, odd.
        project_out: Have a linear layer at the end even if the widths agree.
    """

    def __init__(
        self,
        output_dim: PositiveInt,
        max_length: PositiveInt = 128,
        embed_dim: PositiveInt = 256,
        depth: PositiveInt = 2,
        num_heads: PositiveInt = 4,
        kernel_size: PositiveInt = 5,
        project_out: bool = False,
    ) -> None:
        super().__init__(embed_dim, output_dim, project_out)
        if embed_dim % num_heads or kernel_size % 2 == 0:
            raise ConfigError(
                f"conditioner 'byte_text': embed_dim must be a multiple of num_heads and kernel_size odd, got {embed_dim}, {num_heads} "
                f"and {kernel_size}"
            )
        self.max_length = max_length
        self.byte_embedder = nn.Embedding(PAD + 1, embed_dim, padding_idx=PAD)
        self.position_embedder = nn.Parameter(torch.randn(max_length, embed_dim) * 0.02)
        self.conv = nn.Conv1d(embed_dim, embed_dim, kernel_size, padding=kernel_size // 2)
        layer = nn.TransformerEncoderLayer(
            embed_dim, num_heads, dim_feedforward=4 * embed_dim, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.transformer = nn.TransformerEncoder(layer, depth, norm=nn.LayerNorm(embed_dim), enable_nested_tensor=False)

    def forward(self, values: Sequence[Any], device: torch.device | str) -> Condition:
        with torch.device("cpu"):  # where the length of the longest text can be asked for without waiting for a GPU
            ids = self.tokenize([as_text(value, "byte_text") for value in values])  # (B, S)
            # The encoder looks only as far as the longest text; an empty text keeps one position, whose output is zeroed below.
            length = max(1, int((ids != PAD).sum(dim=1).max()))
        ids = ids.to(device)
        mask = ids != PAD
        seen = mask[:, :length].clone()
        seen[:, 0] = True
        x = self.byte_embedder(ids[:, :length])  # (B, S', E)
        x = x + torch.nn.functional.gelu(self.conv(x.transpose(1, 2))).transpose(1, 2) + self.position_embedder[:length]
        hidden = self.transformer(x, src_key_padding_mask=~seen)
        hidden = torch.nn.functional.pad(hidden, (0, 0, 0, self.max_length - length))  # (B, S, E)
        embedding = self.proj_out(hidden.to(dtype_of(self.proj_out, hidden.dtype)))
        return Condition(embedding * mask[..., None].to(embedding.dtype), mask)

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Texts -> bytes (B, max_length), padded with 256."""
        ids = torch.full((len(texts), self.max_length), PAD)
        for row, text in zip(ids, texts, strict=True):
            encoded = text.encode("utf-8", errors="replace")[: self.max_length]
            row[: len(encoded)] = torch.frombuffer(bytearray(encoded), dtype=torch.uint8) if encoded else row[:0]
        return ids
