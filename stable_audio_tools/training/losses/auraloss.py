"""Kept import path; see `stable_audio_tools.training.losses.stft` and `sdr`."""

from stable_audio_tools.training.losses.sdr import SDSDRLoss, SISDRLoss
from stable_audio_tools.training.losses.stft import MelSTFTLoss, MultiResolutionSTFTLoss, STFTLoss, SumAndDifferenceSTFTLoss

__all__ = ["MelSTFTLoss", "MultiResolutionSTFTLoss", "SDSDRLoss", "SISDRLoss", "STFTLoss", "SumAndDifferenceSTFTLoss"]
