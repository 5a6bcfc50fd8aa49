"""The contract of encoders and decoders.

An encoder is an `nn.Module` from audio (B, C, T) to (B, W, L), where W is the width its bottleneck expects and L = T / ratio.
A decoder goes from latents (B, D, L) to audio (B, C, T). Both are registered under the ``type`` that configs use::

    @ENCODERS.register("mycodec")
    class MyEncoder(nn.Module): ...

A parameter called ``strides`` (or ``ratios``, ``rates``) multiplies up to the ratio, ``latent_dim`` is the width on the latent side, and
``in_channels`` / ``out_channels`` are audio channels: `sat check` compares them with the rest of the model.
"""

from stable_audio_tools.families import DECODERS, ENCODERS

__all__ = ["DECODERS", "ENCODERS"]
