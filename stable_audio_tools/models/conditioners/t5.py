"""Condition on text through a T5 encoder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stable_audio_tools.errors import CheckpointError
from stable_audio_tools.families import CONDITIONERS
from stable_audio_tools.models.conditioners.base import Condition, Conditioner, as_text
from stable_audio_tools.models.layers.parameters import dtype_of

# Widths of the published encoders, so that a model with one of them builds without network. Others are asked for their config.
KNOWN_WIDTHS = {
    "t5-small": 512, "t5-base": 768, "t5-large": 1024, "t5-3b": 1024, "t5-11b": 1024,
    "google/t5-v1_1-small": 512, "google/t5-v1_1-base": 768, "google/t5-v1_1-large": 1024,
    "google/t5-v1_1-xl": 2048, "google/t5-v1_1-xxl": 4096,
    "google/flan-t5-small": 512, "google/flan-t5-base": 768, "google/flan-t5-large": 1024,
    "google/flan-t5-xl": 2048, "google/flan-t5-xxl": 4096,
}  # fmt: skip


@CONDITIONERS.register("t5")
class T5Conditioner(Conditioner):
    """Encodes text with a T5 encoder: (B, max_length, D), zeros where there is no text. For cross-attention or prepending.

    The encoder is frozen, loaded on first use, shared by all models of the process and not part of the state dict, so that a model
    builds and loads without network. With ``enable_grad`` it is a part of the model like any other.

    Args:
        output_dim: Width of the embedding.
        t5_model_name: Hugging Face id, or a local folder.
        max_length: Longest text, in tokens; longer text is cut.
        enable_grad: Train the encoder too.
        project_out: Have a linear layer at the end even if the widths agree.
    """

    def __init__(
        self, output_dim: int, t5_model_name: str = "t5-base", max_length: int = 128, enable_grad: bool = False, project_out: bool = False
    ) -> None:
        super().__init__(encoder_width(t5_model_name), output_dim, project_out)
        self.t5_model_name = t5_model_name
        self.max_length = max_length
        self.enable_grad = enable_grad
        if enable_grad:
            self.model = load_t5_encoder(t5_model_name).float().train().requires_grad_(True)

    def forward(self, values: Sequence[Any], device: torch.device | str) -> Condition:
        device = torch.device(device)
        tokens = load_t5_tokenizer(self.t5_model_name)(
            [as_text(value, "t5") for value in values],
            truncation=True,
            max_length=self.max_length,
            padding="max_length",
            return_tensors="pt",
        )
        ids, mask = tokens["input_ids"].to(device), tokens["attention_mask"].to(device).bool()  # (B, S)
        if self.enable_grad:
            hidden = self.model(input_ids=ids, attention_mask=mask)["last_hidden_state"]
        else:
            # float16 on a GPU is what published models were trained with; a CPU computes it slowly, and float32 agrees within 1e-3.
            encoder = frozen_t5_encoder(self.t5_model_name, device, torch.float16 if device.type == "cuda" else torch.float32)
            with torch.no_grad(), torch.autocast(device.type, enabled=False):
                hidden = encoder(input_ids=ids, attention_mask=mask)["last_hidden_state"]
        embedding = self.proj_out(hidden.to(dtype_of(self.proj_out, hidden.dtype)))  # (B, S, D)
        return Condition(embedding * mask[..., None].float(), mask)


@cache
def encoder_width(name: str) -> int:
    """Width of a T5 encoder, without loading its weights.

    Raises:
        CheckpointError: If it is not known, not a local folder, and cannot be looked up.
    """
    if name in KNOWN_WIDTHS:
        return KNOWN_WIDTHS[name]
    file = Path(name) / "config.json"
    if file.is_file():
        return int(json.loads(file.read_text(encoding="utf-8"))["d_model"])
    from transformers import AutoConfig

    return int(_download(AutoConfig, name).d_model)


@cache
def load_t5_tokenizer(name: str) -> Any:
    """The tokenizer, once per process."""
    from transformers import AutoTokenizer

    return _download(AutoTokenizer, name)


def load_t5_encoder(name: str) -> nn.Module:
    """A new copy of the encoder."""
    from transformers import T5EncoderModel

    return _download(T5EncoderModel, name)


@lru_cache(maxsize=4)
def frozen_t5_encoder(name: str, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """The encoder, frozen, once per process, device and data type."""
    return load_t5_encoder(name).to(device=device, dtype=dtype).eval().requires_grad_(False)


def _download(loader: Any, name: str) -> Any:
    from transformers.utils import logging as transformers_logging

    show_progress = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # a bar for reading a local file says nothing
    try:
        return loader.from_pretrained(name)
    except (OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise CheckpointError(
            f"text encoder {name!r}: it is neither a local folder nor in the local cache, and could not be downloaded ({reason}); "
            "check the name and the network, or set t5_model_name to a folder that holds it"
        ) from error
    finally:
        if show_progress:
            transformers_logging.enable_progress_bar()
