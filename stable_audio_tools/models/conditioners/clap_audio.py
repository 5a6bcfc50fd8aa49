"""Condition on audio through the audio half of a CLAP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from stable_audio_tools.audio import resample
from stable_audio_tools.config.base import PositiveInt
from stable_audio_tools.errors import DataError
from stable_audio_tools.families import CONDITIONERS
from stable_audio_tools.models.conditioners.base import Condition, Conditioner, ones_mask
from stable_audio_tools.models.conditioners.clap import EMBEDDING_WIDTH, SAMPLE_RATE, ClapAudio, ClapSource, load_clap_audio
from stable_audio_tools.models.conditioners.pretrained import frozen
from stable_audio_tools.models.layers.parameters import without_autocast


@CONDITIONERS.register("clap_audio")
class CLAPAudioConditioner(Conditioner):
    """Encodes audio with CLAP: its embedding (B, 1, D). For cross-attention or global use.

    The metadata value is a tensor (C, T) or (1, C, T); channels are averaged. The encoder is frozen, loaded on first use, shared by all
    models of the process and not part of the state dict.

    Args:
        output_dim: Width of the embedding.
        clap_ckpt_path: A checkpoint file of LAION, a folder in Hugging Face layout, or a Hugging Face id.
        audio_model_type: Audio encoder of a checkpoint file.
        enable_fusion: Whether a checkpoint file has fusion.
        project_out: Have a linear layer at the end even if the widths agree.
        finetune: Train the encoder too; it is then a part of the model, named ``model``.
        sample_rate: Rate of the audio, in Hz; it is resampled to the 48 kHz of CLAP.
    """

    def __init__(
        self,
        output_dim: PositiveInt,
        clap_ckpt_path: str,
        audio_model_type: Literal["HTSAT-tiny", "HTSAT-base", "HTSAT-large"] = "HTSAT-base",
        enable_fusion: bool = True,
        project_out: bool = False,
        finetune: bool = False,
        sample_rate: PositiveInt = 48_000,
    ) -> None:
        super().__init__(EMBEDDING_WIDTH, output_dim, project_out)
        self.source = ClapSource(clap_ckpt_path, audio_model_type, enable_fusion)
        self.finetune = finetune
        self.sample_rate = sample_rate
        if finetune:
            self.model = load_clap_audio(self.source)

    def forward(self, values: Sequence[Any], device: torch.device | str) -> Condition:
        device = torch.device(device)
        encoder = self.model if self.finetune else frozen(load_clap_audio, self.source, device, torch.float32)
        assert isinstance(encoder, ClapAudio)
        with torch.set_grad_enabled(self.finetune and torch.is_grad_enabled()), without_autocast(device):
            embedded = torch.cat([encoder(self._mono(value).to(device)) for value in values])  # clips may differ in length
        embedding = self.project(embedded)[:, None]  # (B, 1, D)
        return Condition(embedding, ones_mask(embedding))

    def _mono(self, value: Any) -> Tensor:
        """A metadata value as (1, T) at 48 kHz."""
        if isinstance(value, Tensor) and value.dim() == 3 and len(value) == 1:
            value = value[0]
        if not isinstance(value, Tensor) or value.dim() != 2 or not value.numel():
            given = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)[:60]
            raise DataError(f"conditioner 'clap_audio': expected a tensor (channels, samples) per item, got {given}")
        return resample(value.float().mean(0, keepdim=True), self.sample_rate, SAMPLE_RATE)
