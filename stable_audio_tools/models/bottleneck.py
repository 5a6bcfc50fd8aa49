"""Kept import path; the classes live in `stable_audio_tools.models.bottlenecks`."""

from stable_audio_tools.models.bottlenecks import (
    Bottleneck,
    DACRVQBottleneck,
    DACRVQVAEBottleneck,
    DiscreteBottleneck,
    DitheredFSQBottleneck,
    FSQBottleneck,
    L2Bottleneck,
    RVQBottleneck,
    RVQVAEBottleneck,
    SoftNormBottleneck,
    TanhBottleneck,
    VAEBottleneck,
    WassersteinBottleneck,
    vae_sample,
)

__all__ = [
    "Bottleneck", "DACRVQBottleneck", "DACRVQVAEBottleneck", "DiscreteBottleneck", "DitheredFSQBottleneck", "FSQBottleneck", "L2Bottleneck",
    "RVQBottleneck", "RVQVAEBottleneck", "SoftNormBottleneck", "TanhBottleneck", "VAEBottleneck", "WassersteinBottleneck", "vae_sample",
]  # fmt: skip
