"""EnCodec with its published weights, such as MusicGen's. Source: Defossez et al. 2022, arXiv:2210.13438."""

from __future__ import annotations

from einops import rearrange
from torch import Tensor

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.families import PRETRANSFORMS
from stable_audio_tools.models.pretransforms.codec import CodecPretransform, load_codec


@PRETRANSFORMS.register("audiocraft_pretrained")
class AudiocraftCompressionPretransform(CodecPretransform):
    """Audio (B, C, T) to (B, D, T / ratio) and back: 128 channels and 640 samples for the default. Through ``transformers``, in float32.

    Args:
        sample_rate: Of the model around it, in Hz; given by it.
        model_type: Hugging Face id, or a local folder as ``EncodecModel.save_pretrained`` writes it.
        scale: Latents are divided by it when encoding, multiplied when decoding.
        quantize_on_decode: Encode to what is not quantised yet, and quantise when decoding; otherwise quantise when encoding.
    """

    def __init__(
        self, sample_rate: int, model_type: str = "facebook/encodec_32khz", scale: float = 1.0, quantize_on_decode: bool = True
    ) -> None:
        from transformers import EncodecModel

        model = load_codec(EncodecModel, model_type, what="EnCodec", key="model_type")
        config = model.config
        if config.normalize:
            raise ConfigError(
                f"pretransform 'audiocraft_pretrained': {model_type!r} normalises the loudness of every chunk, which latents alone do not "
                "tell; use a model that does not, such as 'facebook/encodec_32khz'"
            )
        super().__init__(
            model,
            name="pretransform 'audiocraft_pretrained'",
            rate=config.sampling_rate,
            sample_rate=sample_rate,
            ratio=config.hop_length,
            width=config.hidden_size,
            io_channels=config.audio_channels,
            num_quantizers=config.num_quantizers,
            codebook_size=config.codebook_size,
            scale=scale,
            quantize_on_decode=quantize_on_decode,
        )

    def to_codes(self, latents: Tensor) -> Tensor:
        return rearrange(self.model.quantizer.encode(latents), "k b l -> b k l")

    def from_codes(self, tokens: Tensor) -> Tensor:
        return self.model.quantizer.decode(rearrange(tokens, "b k l -> k b l"))
