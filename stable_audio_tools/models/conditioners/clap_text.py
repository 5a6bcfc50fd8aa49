"""Condition on text through the text half of a CLAP."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from stable_audio_tools.config.base import PositiveInt
from stable_audio_tools.families import CONDITIONERS
from stable_audio_tools.models.conditioners.base import Condition, Conditioner, ones_mask
from stable_audio_tools.models.conditioners.clap import EMBEDDING_WIDTH, MAX_TOKENS, TEXT_WIDTH, ClapSource, ClapText, load_clap_text
from stable_audio_tools.models.conditioners.pretrained import frozen, tokenize, tokenizer
from stable_audio_tools.models.layers.parameters import without_autocast


@CONDITIONERS.register("clap_text", reads="text")
class CLAPTextConditioner(Conditioner):
    """Encodes text with CLAP: its embedding (B, 1, D), or the hidden states of one layer (B, 77, D).

    The embedding is for cross-attention or global use, the hidden states are for cross-attention or prepending. The encoder is frozen,
    loaded on first use, shared by all models of the process and not part of the state dict.

    Args:
        output_dim: Width of the embedding.
        clap_ckpt_path: A checkpoint file of LAION, a folder in Hugging Face layout, or a Hugging Face id.
        use_text_features: Hidden states instead of the embedding.
        feature_layer_ix: Which hidden states: 0 is the embedding of tokens, -1 the last layer, -2 the one before.
        audio_model_type: Audio encoder of a checkpoint file. The text half is the same for all.
        enable_fusion: Whether a checkpoint file has fusion. The text half is the same for both.
        project_out: Have a linear layer at the end even if the widths agree.
        finetune: Train the text encoder too; it is then a part of the model, named ``model.model``.
        padding_mode: What hidden states without text become: ``none`` (what CLAP makes of them), ``zero`` or ``learned``.
    """

    def __init__(
        self,
        output_dim: PositiveInt,
        clap_ckpt_path: str,
        use_text_features: bool = False,
        feature_layer_ix: int = -1,
        audio_model_type: Literal["HTSAT-tiny", "HTSAT-base", "HTSAT-large"] = "HTSAT-base",
        enable_fusion: bool = True,
        project_out: bool = False,
        finetune: bool = False,
        padding_mode: Literal["none", "zero", "learned"] = "none",
    ) -> None:
        super().__init__(TEXT_WIDTH if use_text_features else EMBEDDING_WIDTH, output_dim, project_out, padding_mode)
        self.source = ClapSource(clap_ckpt_path, audio_model_type, enable_fusion)
        self.use_text_features = use_text_features
        self.feature_layer_ix = feature_layer_ix
        self.finetune = finetune
        if finetune:
            self.model = nn.ModuleDict({"model": load_clap_text(self.source)})
            self.model.requires_grad_(False)["model"].text_branch.requires_grad_(True)

    def forward(self, values: Sequence[Any], device: torch.device | str) -> Condition:
        ids, mask = tokenize(partial(tokenizer, self.source.tokenizer), values, MAX_TOKENS, torch.device(device))  # (B, S), (B, S)
        hidden = self._encode(ids, mask)
        if not self.use_text_features:
            embedding = self.project(hidden)[:, None]  # (B, 1, D)
            return Condition(embedding, ones_mask(embedding))
        return Condition(self.pad(self.project(hidden), mask), mask)

    def _encode(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Tokens (B, S) -> hidden states (B, S, 768) or embedding (B, 512)."""
        encoder = self.model["model"] if self.finetune else frozen(load_clap_text, self.source, ids.device, torch.float32)
        assert isinstance(encoder, ClapText)
        with torch.set_grad_enabled(self.finetune and torch.is_grad_enabled()), without_autocast(ids.device):
            return encoder.hidden_states(ids, mask, self.feature_layer_ix) if self.use_text_features else encoder(ids, mask)
