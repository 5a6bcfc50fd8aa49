"""Adapters: small additions to a model's weights, trained instead of them, kept in files of their own, and mixed when generating."""

from stable_audio_tools.models.adapters.extract import extract_adapter
from stable_audio_tools.models.adapters.files import AdapterFile, read_adapter, save_adapter
from stable_audio_tools.models.adapters.stack import AdapterStack, stack_of
from stable_audio_tools.models.adapters.targets import choose_layers

__all__ = ["AdapterFile", "AdapterStack", "choose_layers", "extract_adapter", "read_adapter", "save_adapter", "stack_of"]
