"""The contract of encoders and decoders.

An encoder is an `nn.Module` from audio (B, C, T) to (B, W, L), where W is the width its bottleneck expects and L = T / ratio.
A decoder goes from latents (B, D, L) to audio (B, C, T). Both are registered under the ``type`` that configs use::

    @ENCODERS.register("mycodec")
    class MyEncoder(nn.Module): ...

A parameter called ``strides`` (or ``ratios``, ``rates``) multiplies up to the ratio, ``latent_dim`` is the width on the latent side, and
``in_channels`` / ``out_channels`` are audio channels: `sat check` compares them with the rest of the model. Published parts that call
these two differently state ``width_key`` and ``channels_key`` in their registration. A decoder whose strides are written in the order in
which they are applied, rather than in the encoder's, states ``strides_as_applied``.

A module that works in chunks of its own has an attribute ``alignment``: latent frames of whose multiples chunked coding has to start.
"""

from stable_audio_tools.families import DECODERS, ENCODERS

__all__ = ["DECODERS", "ENCODERS"]
