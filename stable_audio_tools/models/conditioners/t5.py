"""Condition on text through a T5 encoder."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from stable_audio_tools.config.base import PositiveInt
from stable_audio_tools.families import CONDITIONERS
from stable_audio_tools.models.conditioners.pretrained import Source, fetch
from stable_audio_tools.models.conditioners.text import TextEncoderConditioner
from stable_audio_tools.models.layers.parameters import is_without_weights

# Widths of the published encoders, so that a model with one of them builds without network. Others are asked for their config.
KNOWN_WIDTHS = {
    "t5-small": 512, "t5-base": 768, "t5-large": 1024, "t5-3b": 1024, "t5-11b": 1024,
    "google/t5-v1_1-small": 512, "google/t5-v1_1-base": 768, "google/t5-v1_1-large": 1024,
    "google/t5-v1_1-xl": 2048, "google/t5-v1_1-xxl": 4096,
    "google/flan-t5-small": 512, "google/flan-t5-base": 768, "google/flan-t5-large": 1024,
    "google/flan-t5-xl": 2048, "google/flan-t5-xxl": 4096,
}  # fmt: skip


@CONDITIONERS.register("t5", reads="text", steps="many")
class T5Conditioner(TextEncoderConditioner):
    """Encodes text with a T5 encoder: (B, max_length, D), zeros where there is no text. For cross-attention or prepending.

    The encoder is frozen, loaded on first use, shared by all models of the process and not part of the state dict, so that a model
    builds and loads without network. With ``enable_grad`` it is a part of the model like any other.

    Args:
        output_dim: Width of the embedding.
        t5_model_name: Hugging Face id, or a local folder.
        max_length: Longest text, in tokens; longer text is cut.
        enable_grad: Train the encoder too.
        project_out: Have a linear layer at the end even if the widths agree.
        padding_mode: What positions without text become: ``zero``, ``learned`` (one vector for all) or ``none`` (what T5 makes of them).
        model_path: A local folder to load from, instead of ``t5_model_name``.
    """

    def __init__(
        self,
        output_dim: PositiveInt,
        t5_model_name: str = "t5-base",
        max_length: PositiveInt = 128,
        enable_grad: bool = False,
        project_out: bool = False,
        padding_mode: Literal["none", "zero", "learned"] = "zero",
        model_path: str | None = None,
    ) -> None:
        source = Source.given(model_path=model_path, t5_model_name=t5_model_name)
        super().__init__(
            output_dim, encoder_width(source), source, load_t5_encoder, max_length, enable_grad, project_out, padding_mode, torch.float16
        )
        self.t5_model_name = t5_model_name


@cache
def encoder_width(source: Source) -> int:
    """Width of a T5 encoder, without loading its weights.

    Raises:
        CheckpointError: If it is not known, not a local folder, and cannot be looked up.
    """
    if source.name in KNOWN_WIDTHS:
        return KNOWN_WIDTHS[source.name]
    file = Path(source.name) / "config.json"
    if file.is_file():
        return int(json.loads(file.read_text(encoding="utf-8"))["d_model"])
    from transformers import AutoConfig

    return int(fetch(AutoConfig, source).d_model)


def load_t5_encoder(source: Source) -> nn.Module:
    """A new copy of the encoder; without weights where models are built so."""
    from transformers import AutoConfig, T5EncoderModel

    if is_without_weights():
        config: Any = fetch(AutoConfig, source)
        return T5EncoderModel(config)
    return fetch(T5EncoderModel, source)
