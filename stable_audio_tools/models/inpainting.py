"""Kept import path; the functions live in `stable_audio_tools.sampling.inpainting`."""

from stable_audio_tools.sampling.inpainting import random_inpaint_mask

__all__ = ["random_inpaint_mask"]
