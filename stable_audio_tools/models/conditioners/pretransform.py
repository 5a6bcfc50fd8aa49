"""Condition on audio, encoded by a pretransform."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from stable_audio_tools.config.base import PositiveInt
from stable_audio_tools.config.model import PretransformBlock
from stable_audio_tools.families import CONDITIONERS
from stable_audio_tools.models.conditioners.base import Condition
from stable_audio_tools.models.conditioners.encoded_audio import EncodedAudioConditioner, stack


@CONDITIONERS.register("pretransform")
class PretransformConditioner(EncodedAudioConditioner):
    """Latents of audio: (B, D, L). For input concatenation.

    The metadata value is a tensor (C, T) of the model's sample rate. Published models have ``output_dim`` equal to the channels of the
    latents; otherwise a linear layer maps every frame.

    Args:
        output_dim: Channels of the result.
        sample_rate: Rate of the audio, in Hz.
        use_model_pretransform: Use the pretransform of the model.
        pretransform_config: Another pretransform, as in a model config.
        pretransform_ckpt_path: Weights of its autoencoder.
        save_pretransform: Make that pretransform a part of the model, saved with it.
        pretransform: The pretransform of the model.
    """

    def __init__(
        self,
        output_dim: PositiveInt,
        sample_rate: PositiveInt,
        use_model_pretransform: bool = False,
        pretransform_config: PretransformBlock | None = None,
        pretransform_ckpt_path: str | None = None,
        save_pretransform: bool = False,
        pretransform: Any = None,
    ) -> None:
        super().__init__(
            "pretransform",
            output_dim,
            sample_rate,
            pretransform_config,
            pretransform_ckpt_path,
            use_model_pretransform,
            save_pretransform,
            pretransform,
        )

    def forward(self, values: Sequence[Any] | Tensor, device: torch.device | str) -> Condition:
        audio = stack([self.as_audio(value) for value in values], self.kind)  # (B, C, T)
        latents = self.encode(audio, torch.device(device))
        latents = self.project(latents.transpose(1, 2)).transpose(1, 2)  # (B, D, L)
        return Condition(latents, torch.ones(len(latents), latents.shape[-1], device=latents.device))
