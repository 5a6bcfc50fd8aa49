"""The Descript Audio Codec with its published weights. Source: Kumar et al. 2023, arXiv:2306.06546."""

from __future__ import annotations

from typing import Literal

from stable_audio_tools.config.base import PositiveFloat, PositiveInt
from stable_audio_tools.errors import ConfigError
from stable_audio_tools.families import PRETRANSFORMS
from stable_audio_tools.models.pretransforms.codec import CodecPretransform


@PRETRANSFORMS.register("dac_pretrained", ignored={"chunked": "has never had an effect; audio is encoded and decoded in one piece"})
class PretrainedDACPretransform(CodecPretransform):
    """Mono audio (B, 1, T) to (B, 1024, T / 512) at 44.1 kHz, or T / 320 at 24 and 16 kHz, and back. Through ``transformers``.

    Args:
        sample_rate: Of the model around it, in Hz; given by it.
        model_type: Which of the published weights.
        model_bitrate: Of those, the ones for this bit rate. ``transformers`` has 8 kbit/s; others need ``model_path``.
        model_path: A Hugging Face id, or a local folder as ``DacModel.save_pretrained`` writes it, instead of the published weights.
        scale: Latents are divided by it when encoding, multiplied when decoding.
        quantize_on_decode: Encode to what is not quantised yet, and quantise when decoding; otherwise quantise when encoding.
    """

    def __init__(
        self,
        sample_rate: PositiveInt,
        model_type: Literal["44khz", "24khz", "16khz"] = "44khz",
        model_bitrate: Literal["8kbps", "16kbps"] = "8kbps",
        model_path: str | None = None,
        scale: PositiveFloat = 1.0,
        quantize_on_decode: bool = True,
    ) -> None:
        if model_path is None and model_bitrate != "8kbps":
            raise ConfigError(
                f"pretransform 'dac_pretrained': there is no download of the {model_bitrate} weights in the format of transformers; "
                "convert them and set model_path to the folder"
            )
        super().__init__(
            model_path or f"descript/dac_{model_type}",
            part="dac_pretrained",
            key="model_path",
            sample_rate=sample_rate,
            scale=scale,
            quantize_on_decode=quantize_on_decode,
        )
