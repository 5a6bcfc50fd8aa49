"""EnCodec with its published weights, such as MusicGen's. Source: Defossez et al. 2022, arXiv:2210.13438."""

from __future__ import annotations

from stable_audio_tools.config.base import PositiveFloat, PositiveInt
from stable_audio_tools.families import PRETRANSFORMS
from stable_audio_tools.models.pretransforms.codec import CodecPretransform

RENAMED = {"dac_44khz": "descript/dac_44khz", "dac_24khz": "descript/dac_24khz"}  # names that are not ids on the hub


@PRETRANSFORMS.register("audiocraft_pretrained")
class AudiocraftCompressionPretransform(CodecPretransform):
    """Audio (B, C, T) to (B, D, T / ratio) and back: 128 channels and 640 samples for the default. Through ``transformers``, in float32.

    Args:
        sample_rate: Of the model around it, in Hz; given by it.
        model_type: Hugging Face id of an EnCodec or DAC, or a local folder as ``EncodecModel.save_pretrained`` writes it.
        scale: Latents are divided by it when encoding, multiplied when decoding.
        quantize_on_decode: Encode to what is not quantised yet, and quantise when decoding; otherwise quantise when encoding.
        num_quantizers: Codebooks that are used; None is all.
    """

    def __init__(
        self,
        sample_rate: PositiveInt,
        model_type: str = "facebook/encodec_32khz",
        scale: PositiveFloat = 1.0,
        quantize_on_decode: bool = True,
        num_quantizers: PositiveInt | None = None,
    ) -> None:
        super().__init__(
            RENAMED.get(model_type, model_type),
            part="audiocraft_pretrained",
            key="model_type",
            sample_rate=sample_rate,
            scale=scale,
            quantize_on_decode=quantize_on_decode,
            num_quantizers=num_quantizers,
        )
