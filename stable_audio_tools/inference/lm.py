"""Generate audio with a language model."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stable_audio_tools.audio import prepare_audio
from stable_audio_tools.errors import ConfigError
from stable_audio_tools.inference.numerics import reference_numerics, seeded
from stable_audio_tools.models.layers.parameters import dtype_of
from stable_audio_tools.models.lm.wrapper import AudioLanguageModelWrapper, Callback


@torch.no_grad()
def generate_lm(
    model: AudioLanguageModelWrapper,
    conditioning: Sequence[Mapping[str, Any]] | None = None,
    conditioning_tensors: Mapping[str, Any] | None = None,
    batch_size: int | None = None,
    sample_size: int = 1048576,
    seed: int = -1,
    cfg_scale: float = 1.0,
    init_audio: tuple[int, Tensor] | None = None,
    callback: Callback | None = None,
    top_k: int = 250,
    top_p: float = 0.0,
    temp: float = 1.0,
) -> Tensor:
    """Generate audio from conditions, or continue audio.

    The same seed gives the same audio on the same kind of device. The global random streams and numerical settings of torch are as before
    afterwards.

    Args:
        model: A language model, `musicgen` included.
        conditioning: One metadata dictionary per item.
        conditioning_tensors: Already embedded conditions, id -> (embedding, mask); instead of ``conditioning``.
        batch_size: Number of clips B; None is as many as there are conditions.
        sample_size: Length of each clip, in samples; with ``init_audio``, that included.
        seed: -1 draws one.
        cfg_scale: Guidance scale; 1 is none.
        init_audio: (sample rate in Hz, samples (C, T)) to continue, the same for all clips. It comes back as its tokens tell it.
        callback: Called after every step with the number of steps done and of all.
        top_k: See `sample_tokens`.
        top_p: See `sample_tokens`.
        temp: See `sample_tokens`.

    Returns:
        Audio (B, C, sample_size), neither normalised nor clipped.

    Raises:
        ConfigError: If conditions are missing or numbers of items disagree, or ``init_audio`` leaves nothing to generate.
    """
    if sample_size < 1:
        raise ConfigError(f"sample_size must be at least 1 sample, got {sample_size}")
    num_tokens = math.ceil(sample_size / model.downsampling_ratio)
    if batch_size is None:
        batch_size = len(conditioning) if conditioning is not None else 1 if conditioning_tensors is None else None
    python = random.getstate()  # transformers' MusicGen draws from it at every step, even in eval mode
    try:
        with seeded(seed if seed != -1 else int(np.random.randint(0, 2**31 - 1))), reference_numerics():
            given = None
            if init_audio is not None:  # here, since some codecs draw their tokens
                given = encode_init_tokens(model, init_audio, next(model.parameters()).device)  # (1, K, T0)
                if given.shape[-1] >= num_tokens:
                    raise ConfigError(
                        f"init_audio is {given.shape[-1] * model.downsampling_ratio} samples long, which leaves nothing to generate: "
                        f"sample_size, which includes it, is {sample_size}"
                    )
                given = given if batch_size is None else given.expand(batch_size, -1, -1)
            tokens = model.generate(
                num_tokens,
                batch_size=batch_size,
                init_data=given,
                conditioning=conditioning,
                conditioning_tensors=conditioning_tensors,
                callback=callback,
                cfg_scale=cfg_scale,
                top_k=top_k,
                top_p=top_p,
                temp=temp,
            )
            return model.decode_tokens(tokens)[..., :sample_size]
    finally:
        random.setstate(python)


def encode_init_tokens(model: AudioLanguageModelWrapper, audio: tuple[int, Tensor], device: torch.device) -> Tensor:
    """Audio of any rate and channel count -> tokens (1, K, T), without the last incomplete frame.

    Args:
        model: The model.
        audio: (sample rate in Hz, samples (C, T))
        device: Where to put it.

    Raises:
        ConfigError: If it is shorter than one frame.
    """
    rate, samples = audio
    length = int(samples.shape[-1] * model.sample_rate / rate) // model.downsampling_ratio * model.downsampling_ratio
    if length == 0:
        raise ConfigError(f"init_audio: must be at least one frame of {model.downsampling_ratio} samples at {model.sample_rate} Hz")
    prepared = prepare_audio(
        samples, in_sr=rate, target_sr=model.sample_rate, target_length=length, target_channels=model.io_channels, device=device
    )
    return model.tokenize(prepared.to(dtype_of(model.pretransform)))


__all__ = ["encode_init_tokens", "generate_lm"]
