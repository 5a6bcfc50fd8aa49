"""From the config of a language model to the model."""

from __future__ import annotations

from stable_audio_tools.config.model import LMConfig
from stable_audio_tools.errors import ConfigError
from stable_audio_tools.families import LM_BACKBONES, MODELS, PATTERNS
from stable_audio_tools.models.conditioners.multi import build_multi_conditioner
from stable_audio_tools.models.lm.model import AudioLanguageModel
from stable_audio_tools.models.lm.wrapper import AudioLanguageModelWrapper
from stable_audio_tools.models.pretransforms.build import build_pretransform


@MODELS.register("lm")
def build_lm(config: LMConfig) -> AudioLanguageModelWrapper:
    """Language model of the tokens of a codec. Pretransform, conditioners, backbone, embeddings and heads draw their weights in this order.

    Raises:
        ConfigError: If the pretransform makes no tokens.
    """
    model, lm = config.model, config.model.lm
    pretransform = build_pretransform(model.pretransform, config.sample_rate)
    if not pretransform.is_discrete:
        raise ConfigError(
            f"model.pretransform: a language model needs tokens, but this {model.pretransform.type!r} pretransform makes none; give its "
            "autoencoder a bottleneck such as dac_rvq, rvq or fsq"
        )
    num_quantizers, codebook_size = pretransform.num_quantizers, pretransform.codebook_size
    conditioner = build_multi_conditioner(model.conditioning) if model.conditioning else None
    pattern = PATTERNS.build(lm.codebook_pattern, num_quantizers=num_quantizers)
    backbone = LM_BACKBONES.build(lm.type, lm.config)
    return AudioLanguageModelWrapper(
        pretransform,
        AudioLanguageModel(pattern, backbone, num_quantizers, codebook_size),
        sample_rate=config.sample_rate,
        min_input_length=pretransform.downsampling_ratio,
        conditioner=conditioner,
        cross_attn_cond_ids=lm.cross_attention_cond_ids,
        prepend_cond_ids=lm.prepend_cond_ids,
        global_cond_ids=lm.global_cond_ids,
    )
