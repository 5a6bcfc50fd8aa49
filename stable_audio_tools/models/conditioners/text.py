"""What conditioners on a pretrained text encoder have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from stable_audio_tools.models.conditioners.base import Condition, Conditioner
from stable_audio_tools.models.conditioners.pretrained import Source, frozen, tokenize, tokenizer
from stable_audio_tools.models.layers.parameters import without_autocast


class TextEncoderConditioner(Conditioner):
    """The last hidden states of a text encoder of ``transformers``: (B, max_length, D). For cross-attention or prepending.

    Args:
        output_dim: Width of the embedding.
        width: Width of the encoder.
        source: Where encoder and tokenizer come from.
        load: Makes a new copy of the encoder.
        max_length: Longest text, in tokens; longer text is cut.
        enable_grad: Train the encoder too; it is then a part of the model like any other, named ``model``.
        project_out: Have a linear layer at the end even if the widths agree.
        padding_mode: What positions without text become.
        cuda_dtype: Data type of the frozen encoder on a GPU; None is the one it was stored in.
    """

    def __init__(
        self,
        output_dim: int,
        width: int,
        source: Source,
        load: Callable[[Source], nn.Module],
        max_length: int,
        enable_grad: bool,
        project_out: bool,
        padding_mode: Literal["none", "zero", "learned"],
        cuda_dtype: torch.dtype | None,
    ) -> None:
        super().__init__(width, output_dim, project_out, padding_mode)
        self.source = source
        self.max_length = max_length
        self.enable_grad = enable_grad
        self._load = load
        self._cuda_dtype = cuda_dtype
        if enable_grad:
            self.model = load(source).float().train().requires_grad_(True)

    @property
    def tokenizer(self) -> Any:
        """The encoder's tokenizer."""
        return tokenizer(self.source)

    def forward(self, values: Sequence[Any], device: torch.device | str) -> Condition:
        ids, mask = tokenize(partial(tokenizer, self.source), values, self.max_length, torch.device(device))
        mask = mask.bool()  # (B, S)
        return Condition(self.pad(self.project(self._encode(ids, mask)), mask), mask)

    def _encode(self, ids: Tensor, mask: Tensor) -> Tensor:
        if self.enable_grad:
            return self.model(input_ids=ids, attention_mask=mask)["last_hidden_state"]
        # Half precision on a GPU is what published models were trained with; a CPU computes it slowly, and float32 agrees within 1e-3.
        encoder = frozen(self._load, self.source, ids.device, self._cuda_dtype if ids.is_cuda else torch.float32)
        with torch.no_grad(), without_autocast(ids.device):
            return encoder(input_ids=ids, attention_mask=mask)["last_hidden_state"]  # (B, S, width)
