"""Kept import path. Checkpoints live in `stable_audio_tools.checkpoint`, weight norm in `stable_audio_tools.models.layers.conv`."""

from stable_audio_tools.checkpoint import copy_state_dict, load_ckpt_state_dict
from stable_audio_tools.models.layers.conv import remove_weight_norm_from_model

__all__ = ["copy_state_dict", "load_ckpt_state_dict", "remove_weight_norm_from_model"]
