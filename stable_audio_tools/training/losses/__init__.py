"""Losses of autoencoders and diffusion models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stable_audio_tools.optional import lazy

if TYPE_CHECKING:
    from stable_audio_tools.training.losses.hubert import HubertLoss
    from stable_audio_tools.training.losses.mel import MelSpectrogramLoss
    from stable_audio_tools.training.losses.modules import (
        AuralossLoss,
        L1Loss,
        LossModule,
        LossWithTarget,
        MSELoss,
        MultiLoss,
        TargetValueLoss,
        ValueLoss,
    )

__all__ = [
    "AuralossLoss", "HubertLoss", "L1Loss", "LossModule", "LossWithTarget", "MSELoss", "MelSpectrogramLoss", "MultiLoss", "TargetValueLoss",
    "ValueLoss",
]  # fmt: skip
_MODULES = "stable_audio_tools.training.losses.modules"
__getattr__ = lazy(
    __name__,
    AuralossLoss=_MODULES,
    HubertLoss="stable_audio_tools.training.losses.hubert",
    L1Loss=_MODULES,
    LossModule=_MODULES,
    LossWithTarget=_MODULES,
    MSELoss=_MODULES,
    MelSpectrogramLoss="stable_audio_tools.training.losses.mel",
    MultiLoss=_MODULES,
    TargetValueLoss=_MODULES,
    ValueLoss=_MODULES,
)
