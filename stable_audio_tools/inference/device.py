"""Where to compute."""

from __future__ import annotations

import torch

from stable_audio_tools.errors import ConfigError


def pick_device(name: str) -> torch.device:
    """``auto`` is CUDA, else Apple's GPU, else the CPU. ``cuda:1`` names the second GPU.

    Raises:
        ConfigError: If the device does not exist.
    """
    if name.split(":")[0] not in ("auto", "cuda", "mps", "cpu"):
        raise ConfigError(f"--device {name!r}: one of auto, cuda, cuda:N, mps, cpu")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"--device {name!r}: not available here ({str(error).splitlines()[0]})") from error
    return device
