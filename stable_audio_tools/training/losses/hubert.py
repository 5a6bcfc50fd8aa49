"""Distance between what a pretrained speech model makes of two signals: a semantic loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from stable_audio_tools.config.base import NonNegativeFloat, PositiveInt
from stable_audio_tools.errors import ConfigError
from stable_audio_tools.families import LOSSES
from stable_audio_tools.models.conditioners.pretrained import frozen
from stable_audio_tools.models.layers.hub import Source, fetch
from stable_audio_tools.training.losses.resampling import SincResample

SPEECH_RATE = 16000
NAMES: Mapping[str, str] = {
    "HUBERT_LARGE": "facebook/hubert-large-ll60k",
    "WAVLM_LARGE": "microsoft/wavlm-large",
    "WAV2VEC2_LARGE_LV60K": "facebook/wav2vec2-large-lv60",
}


@LOSSES.register("hubert")
class HubertLoss(nn.Module):
    """Distance of the layers of a pretrained speech model (HuBERT, WavLM, wav2vec 2.0), each relative to its spread.

    The model is frozen, loaded when it is first needed, shared by the process and never saved.

    Args:
        feature_ids: Which layers count, from 0; None is all of them, and ``[-1]`` only the convolutions below them.
        weight: Factor of the result.
        model_name: ``HUBERT_LARGE``, ``WAVLM_LARGE``, ``WAV2VEC2_LARGE_LV60K``, a Hugging Face id, or a folder.
        resample: Resample to 16 kHz, which these models were trained for. Published runs did not.
        sample_rate: In Hz; given by the autoencoder. Needed to resample.
    """

    def __init__(
        self,
        feature_ids: Sequence[Annotated[int, Field(ge=-1)]] | None = None,
        weight: NonNegativeFloat = 1.0,
        model_name: str = "HUBERT_LARGE",
        resample: bool = False,
        sample_rate: PositiveInt | None = None,
    ) -> None:
        super().__init__()
        if resample and sample_rate is None:
            raise ConfigError("loss 'hubert': resample needs a sample_rate")
        self.feature_ids = list(feature_ids) if feature_ids is not None else None
        self.weight = weight
        self.source = Source.given(model_name=NAMES.get(model_name, model_name))
        self.resample = SincResample(sample_rate, SPEECH_RATE) if resample and sample_rate is not None else None

    def features(self, audio: Tensor) -> list[Tensor]:
        """What the chosen layers make of audio (B, C, T), the channels taken for items: each (B C, frames, W)."""
        model: Any = frozen(_load, self.source, audio.device, torch.float32)
        rows = audio.reshape(-1, audio.shape[-1]).float()  # (B C, T)
        rows = rows if self.resample is None else self.resample(rows)
        rows = F.layer_norm(rows, rows.shape)
        if self.feature_ids == [-1]:
            return [model.feature_extractor(rows).transpose(1, 2)]
        layers = model(rows, output_hidden_states=True).hidden_states[1:]
        chosen = range(len(layers)) if self.feature_ids is None else self.feature_ids
        wrong = [index for index in chosen if not 0 <= index < len(layers)]
        if wrong:
            raise ConfigError(f"loss 'hubert': feature_ids: {self.source} has layers 0 to {len(layers) - 1}, got {wrong[0]}")
        return [layers[index] for index in chosen]

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Distance of (B, C, T) from (B, C, T); the second one's layers are the yardstick."""
        with torch.autocast(x.device.type, enabled=False):
            pairs = zip(self.features(x), self.features(y), strict=True)
            return self.weight * torch.stack([F.l1_loss(a, b) / (b.std() + 1e-5) for a, b in pairs]).mean()


def _load(source: Source) -> nn.Module:
    from transformers import AutoModel

    return fetch(AutoModel, source, what="speech model")
