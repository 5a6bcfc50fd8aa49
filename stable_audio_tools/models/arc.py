"""Kept import path; the heads live in `stable_audio_tools.training.arc.heads`, which is imported when one is asked for."""

from stable_audio_tools.optional import lazy

__getattr__ = lazy(
    __name__,
    ConvDiscriminator="stable_audio_tools.training.arc.heads.conv",
    ConvNeXtDiscriminator="stable_audio_tools.training.arc.heads.convnext",
)
