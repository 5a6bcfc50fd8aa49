"""Spaces in which audio is compared: clips to points, by a model's own autoencoder or by CLAP."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stable_audio_tools.config.training.metrics import Metrics
from stable_audio_tools.errors import ConfigError
from stable_audio_tools.models.autoencoders.autoencoder import AudioAutoencoder
from stable_audio_tools.models.conditioners.clap import EMBEDDING_WIDTH
from stable_audio_tools.models.conditioners.clap_audio import CLAPAudioConditioner
from stable_audio_tools.models.conditioners.clap_text import CLAPTextConditioner

ROBERTA = "roberta-base"  # whose tokenizer LAION's checkpoints take


class LatentEmbedding:
    """Every latent frame of the model's own autoencoder is a point."""

    def points(self, model: nn.Module, clips: Sequence[Tensor]) -> Tensor:
        """Clips (C, T) at the model's rate -> points (N, D)."""
        codec: Any = model if isinstance(model, AudioAutoencoder) else model.pretransform
        step = int(codec.downsampling_ratio)
        whole = [clip[:, : max(clip.shape[-1] // step, 1) * step] for clip in clips]  # frames, but for clips of less than one
        padded = [F.pad(clip, (0, max(step - clip.shape[-1], 0))) for clip in whole]
        return torch.cat([codec.encode(clip[None])[0].T.float().cpu() for clip in padded])  # (N, D)


class ClapEmbedding:
    """Every clip is a point, by what CLAP hears.

    Args:
        metrics: What names the CLAP.

    Raises:
        ConfigError: If it is not on this machine.
    """

    def __init__(self, metrics: Metrics) -> None:
        assert metrics.clap_model is not None
        path = on_disk(metrics.clap_model, "training.metrics.clap_model")
        options = (metrics.clap_audio_model_type, metrics.clap_enable_fusion)
        self._audio = CLAPAudioConditioner(EMBEDDING_WIDTH, path, *options)
        self._text = CLAPTextConditioner(EMBEDDING_WIDTH, path)
        if self._text.source.tokenizer.name == ROBERTA:
            on_disk(ROBERTA, "training.metrics.clap_model", f" ({self._text.source.tokenizer.remedy})")

    def points(self, model: nn.Module, clips: Sequence[Tensor]) -> Tensor:
        """Clips (C, T) at the model's rate -> points (N, D) of length 1."""
        self._audio.sample_rate = int(model.sample_rate)  # type: ignore[arg-type]
        return self._audio(list(clips), clips[0].device).embedding[:, 0].cpu()

    def points_of_texts(self, texts: Sequence[str], device: torch.device) -> Tensor:
        """Texts -> points (N, D) of length 1, near the audio that they describe."""
        return self._text(list(texts), device).embedding[:, 0].cpu()


Embedding = LatentEmbedding | ClapEmbedding


def build_embeddings(metrics: Metrics) -> dict[str, Embedding]:
    """The spaces that a config asks for, by name."""
    return {name: ClapEmbedding(metrics) if name == "clap" else LatentEmbedding() for name in metrics.embeddings}


def on_disk(name: str, where: str, otherwise: str = "") -> str:
    """The file or folder of something pretrained; an id is looked up among what was downloaded before.

    Args:
        name: File, folder or Hugging Face id.
        where: What names it, for messages.
        otherwise: What else to do, for messages.

    Raises:
        ConfigError: If it is not on this machine: a run does not download in silence.
    """
    if Path(name).exists():
        return name
    from huggingface_hub import snapshot_download

    try:
        return snapshot_download(name, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{where}: {name!r} is neither a file, nor a folder, nor a Hugging Face id that was downloaded before; nothing is downloaded "
            f"while training, so get it first, with 'hf download {name}'{otherwise}"
        ) from error
