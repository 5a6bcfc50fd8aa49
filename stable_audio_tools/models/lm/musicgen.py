"""MusicGen: the pretrained family, through ``transformers``, as a language model like any other.

Source: Copet et al. 2023, arXiv:2306.05284.

A `transformers.MusicgenForConditionalGeneration` is taken apart into what an `AudioLanguageModelWrapper` is made of: its EnCodec is the
pretransform, its text encoder the conditioner ``prompt``, its decoder the language model. So training, guidance, sampling and continuation
are the same calls as for our own models.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from stable_audio_tools.config.model import MusicgenConfig
from stable_audio_tools.errors import CheckpointError, ConfigError
from stable_audio_tools.families import MODELS
from stable_audio_tools.models.conditioners.base import Condition, Conditioner
from stable_audio_tools.models.conditioners.multi import MultiConditioner
from stable_audio_tools.models.layers.hub import Source, fetch
from stable_audio_tools.models.layers.parameters import dtype_of, without_autocast
from stable_audio_tools.models.lm.patterns.delay import DelayPattern
from stable_audio_tools.models.lm.wrapper import AudioLanguageModelWrapper
from stable_audio_tools.models.pretransforms.base import Pretransform


class MusicgenCodec(Pretransform):
    """MusicGen's EnCodec: tokens (B, K, L) and back. Stereo is coded as left and right, whose codebooks alternate.

    Args:
        model: A `transformers.EncodecModel`; its weights are saved under ``model.``.
        audio_channels: 1 or 2.
        num_quantizers: Codebooks K, of all channels together.
    """

    def __init__(self, model: Any, audio_channels: int, num_quantizers: int) -> None:
        super().__init__(enable_grad=False, io_channels=audio_channels, is_discrete=True)
        self.model = model
        self.sample_rate = model.config.sampling_rate
        self.downsampling_ratio = model.config.hop_length
        self.encoded_channels = model.config.hidden_size
        self.num_quantizers = num_quantizers
        self.codebook_size = model.config.codebook_size

    def tokenize(self, x: Tensor) -> Tensor:
        x = F.pad(x, (0, -x.shape[-1] % self.downsampling_ratio))
        mono = rearrange(x, "b c t -> (b c) 1 t").to(dtype_of(self.model))
        latents = self.model.encoder(mono)  # (B C, D, L)
        codes = self.model.quantizer.encode(latents)[: self.num_quantizers // self.io_channels]  # (K / C, B C, L)
        return rearrange(codes, "k (b c) l -> b (k c) l", c=self.io_channels)

    def decode_tokens(self, tokens: Tensor) -> Tensor:
        codes = rearrange(tokens, "b (k c) l -> k (b c) l", c=self.io_channels)
        audio = self.model.decoder(self.model.quantizer.decode(codes))  # (B C, 1, T)
        return rearrange(audio, "(b c) 1 t -> b c t", c=self.io_channels)


class MusicgenTextConditioner(Conditioner):
    """MusicGen's text encoder, frozen and not part of the state dict, and the layer between it and the decoder, which is trained.

    Args:
        encoder: The text encoder.
        tokenizer: Its tokenizer.
        output_dim: Width that the decoder attends to.
        projection: The layer between them, if the model has one.
    """

    def __init__(self, encoder: nn.Module, tokenizer: Any, output_dim: int, projection: nn.Module | None) -> None:
        super().__init__(output_dim, output_dim)
        self._frozen = Frozen(encoder, tokenizer)
        if projection is not None:
            self.proj_out = projection

    def forward(self, values: Sequence[Any], device: torch.device | str) -> Condition:
        tokens = self._frozen.tokenizer([str(value) for value in values], padding=True, return_tensors="pt").to(device)
        mask: Tensor = tokens["attention_mask"]
        with torch.no_grad(), without_autocast(device):
            hidden = self._frozen.encoder.to(device)(input_ids=tokens["input_ids"], attention_mask=mask).last_hidden_state  # (B, S, D)
        embedding = self.proj_out(hidden.to(dtype_of(self.proj_out, hidden.dtype)))
        return Condition(embedding * mask[..., None].to(embedding), mask.bool())


class Frozen:
    """What a module uses but does not own: not in its state dict, not moved or cast with it, and shared by its copies.

    Args:
        encoder: The module.
        tokenizer: Its tokenizer.
    """

    def __init__(self, encoder: Any, tokenizer: Any) -> None:
        self.encoder = encoder.eval().requires_grad_(False)
        self.tokenizer = tokenizer

    def __deepcopy__(self, memo: Any) -> Frozen:
        return self


class MusicgenLanguageModel(nn.Module):
    """MusicGen's decoder as the ``lm`` of an `AudioLanguageModelWrapper`.

    Args:
        decoder: A `transformers.MusicgenForCausalLM`.
    """

    def __init__(self, decoder: Any) -> None:
        super().__init__()
        self.decoder = decoder
        config = decoder.config
        self.num_quantizers: int = config.num_codebooks
        self.codebook_size: int = config.vocab_size
        channels = config.audio_channels  # left and right share a delay
        self.pattern_provider = DelayPattern(self.num_quantizers, [index // channels for index in range(self.num_quantizers)])

    def forward(
        self,
        sequence: Tensor,
        prepend_cond: Tensor | None = None,
        prepend_cond_mask: Tensor | None = None,
        cross_attn_cond: Tensor | None = None,
        cross_attn_mask: Tensor | None = None,
        cache: Any = None,
    ) -> Tensor:
        """Logits of the next step, at every step of a sequence. See `AudioLanguageModel.forward`; nothing is prepended.

        Args:
            sequence: (B, K, S)
            prepend_cond: None.
            prepend_cond_mask: None.
            cross_attn_cond: (B, N, D)
            cross_attn_mask: (B, N), False on padding.
            cache: Of `new_cache`.

        Returns:
            (B, K, S, V)
        """
        output = self.decoder(
            input_ids=rearrange(sequence, "b k s -> (b k) s"),
            encoder_hidden_states=cross_attn_cond.to(dtype_of(self.decoder)) if cross_attn_cond is not None else None,
            encoder_attention_mask=cross_attn_mask.long() if cross_attn_mask is not None else None,
            past_key_values=cache,
            use_cache=cache is not None,
        )
        return rearrange(output.logits, "(b k) s v -> b k s v", k=self.num_quantizers)

    def new_cache(self) -> Any:
        """An empty cache for one generation."""
        from transformers import DynamicCache, EncoderDecoderCache

        return EncoderDecoderCache(DynamicCache(config=self.decoder.config), DynamicCache(config=self.decoder.config))


@MODELS.register("musicgen")
def build_musicgen(config: MusicgenConfig) -> AudioLanguageModelWrapper:
    """Language model of the MusicGen family, pretrained.

    Raises:
        CheckpointError: If it is neither a local folder nor can be downloaded, or is another kind of model.
        ConfigError: If its sample rate or channels are not those of the config.
    """
    model, tokenizer = load_musicgen(config.model.pretrained)
    decoder = model.decoder
    channels = decoder.config.audio_channels
    codec = MusicgenCodec(model.audio_encoder, channels, decoder.config.num_codebooks)
    for key, given, wanted in (
        ("sample_rate", config.sample_rate, codec.sample_rate),
        ("audio_channels", config.audio_channels, channels),
    ):
        if given != wanted:
            raise ConfigError(f"{key}: is {given}, but MusicGen {config.model.pretrained!r} has {wanted}")
    projection = getattr(model, "enc_to_dec_proj", None)
    width = decoder.config.cross_attention_hidden_size or decoder.config.hidden_size
    return AudioLanguageModelWrapper(
        codec,
        MusicgenLanguageModel(decoder),
        sample_rate=config.sample_rate,
        min_input_length=codec.downsampling_ratio,
        conditioner=MultiConditioner({"prompt": MusicgenTextConditioner(model.text_encoder, tokenizer, width, projection)}),
        cross_attn_cond_ids=["prompt"],
    )


def load_musicgen(pretrained: str) -> tuple[Any, Any]:
    """A `transformers.MusicgenForConditionalGeneration` in float32, and its tokenizer.

    Args:
        pretrained: Local folder, Hugging Face id, or the end of an id of the original models.
    """
    from transformers import AutoConfig, AutoTokenizer, MusicgenForConditionalGeneration

    name = pretrained if "/" in pretrained or Path(pretrained).is_dir() else f"facebook/musicgen-{pretrained}"
    source = Source(name, "set model.pretrained to a folder that holds it")
    kind = fetch(AutoConfig, source, what="MusicGen").model_type
    if kind != "musicgen":
        raise CheckpointError(f"MusicGen {source}: holds a {kind!r} model; only 'musicgen' models, conditioned on text alone, are known")
    model = fetch(MusicgenForConditionalGeneration, source, what="MusicGen").float().eval()
    return model, fetch(AutoTokenizer, source, what="MusicGen")
