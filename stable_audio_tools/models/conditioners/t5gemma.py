"""Condition on text through the encoder of a T5Gemma."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from torch import nn

from stable_audio_tools.config.base import PositiveInt
from stable_audio_tools.errors import CheckpointError
from stable_audio_tools.families import CONDITIONERS
from stable_audio_tools.models.conditioners.pretrained import Source, fetch
from stable_audio_tools.models.conditioners.text import TextEncoderConditioner
from stable_audio_tools.models.layers.parameters import is_without_weights, without_weights

WIDTH = 768  # of google/t5gemma-b-b-ul2, which every published model uses


@CONDITIONERS.register("t5gemma", reads="text", steps="many")
class T5GemmaConditioner(TextEncoderConditioner):
    """Encodes text with the encoder of a T5Gemma: (B, max_length, D). For cross-attention or prepending.

    The encoder is frozen, loaded on first use, shared by all models of the process and not part of the state dict. Stable Audio 3 ships it
    in a subfolder of the model's own repository, and learns the vector that stands where there is no text (``padding_mode: learned``).

    Args:
        output_dim: Width of the embedding.
        model_name: Hugging Face id of the encoder.
        max_length: Longest text, in tokens; longer text is cut.
        enable_grad: Train the encoder too.
        project_out: Have a linear layer at the end even if the widths agree.
        padding_mode: What positions without text become: ``zero``, ``learned`` (one vector for all) or ``none``.
        model_path: A local folder to load from, instead of ``repo_id`` or ``model_name``.
        repo_id: Hugging Face id of a repository that holds the encoder, instead of ``model_name``.
        subfolder: Folder of the encoder in the repository or local folder.
    """

    def __init__(
        self,
        output_dim: PositiveInt,
        model_name: str = "google/t5gemma-b-b-ul2",
        max_length: PositiveInt = 128,
        enable_grad: bool = False,
        project_out: bool = False,
        padding_mode: Literal["none", "zero", "learned"] = "zero",
        model_path: str | None = None,
        repo_id: str | None = None,
        subfolder: str | None = None,
    ) -> None:
        source = Source.given(model_path=model_path, repo_id=repo_id, model_name=model_name)._replace(subfolder=subfolder or "")
        super().__init__(
            output_dim, encoder_width(source), source, load_t5gemma_encoder, max_length, enable_grad, project_out, padding_mode, None
        )


def encoder_width(source: Source) -> int:
    """Width of the encoder: a local folder says it, published ones have one width.

    Raises:
        CheckpointError: If a local folder holds no T5Gemma.
    """
    folder = Path(source.name) / source.subfolder
    if not folder.is_dir():
        return WIDTH
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return int(config.get("encoder", config)["hidden_size"])
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{folder}: holds no T5Gemma: config.json is missing or says no encoder.hidden_size ({error!r})") from error


def load_t5gemma_encoder(source: Source) -> nn.Module:
    """A new copy of the encoder; without weights where models are built so."""
    from transformers import AutoConfig, T5GemmaEncoderModel

    if is_without_weights():
        config: Any = fetch(AutoConfig, source)
        config.is_encoder_decoder = False
        with without_weights():  # keeps its table of frequencies, which no state dict holds
            return T5GemmaEncoderModel(config)
    return fetch(T5GemmaEncoderModel, source, is_encoder_decoder=False)
