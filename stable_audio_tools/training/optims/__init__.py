"""Optimizers that torch does not have: one file each. Configs name them by ``"type"``, beside those of ``torch.optim``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stable_audio_tools.optional import lazy

if TYPE_CHECKING:
    from stable_audio_tools.training.optims.cautious import CAdamW, CLion
    from stable_audio_tools.training.optims.muon import MuonAdamW

__all__ = ["CAdamW", "CLion", "MuonAdamW"]
__getattr__ = lazy(
    __name__,
    CAdamW="stable_audio_tools.training.optims.cautious",
    CLion="stable_audio_tools.training.optims.cautious",
    MuonAdamW="stable_audio_tools.training.optims.muon",
)
