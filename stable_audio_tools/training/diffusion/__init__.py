"""Training diffusion models."""

from stable_audio_tools.optional import lazy
from stable_audio_tools.training.diffusion.autoencoder import DiffusionAutoencoderTrainingWrapper
from stable_audio_tools.training.diffusion.cond import DiffusionCondInpaintTrainingWrapper, DiffusionCondTrainingWrapper
from stable_audio_tools.training.diffusion.uncond import DiffusionUncondTrainingWrapper

__all__ = [
    "DiffusionAutoencoderTrainingWrapper",
    "DiffusionCondInpaintTrainingWrapper",
    "DiffusionCondTrainingWrapper",
    "DiffusionUncondTrainingWrapper",
]

__getattr__ = lazy(  # demos import the wrappers
    __name__,
    DiffusionCondDemoCallback="stable_audio_tools.training.demos.diffusion_cond",
    DiffusionCondInpaintDemoCallback="stable_audio_tools.training.demos.diffusion_cond_inpaint",
    DiffusionUncondDemoCallback="stable_audio_tools.training.demos.diffusion_uncond",
)
