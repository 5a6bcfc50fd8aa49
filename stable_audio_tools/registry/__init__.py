"""Families of interchangeable parts, and what a config may say about each part."""

from stable_audio_tools.registry.registry import Registry
from stable_audio_tools.registry.schema import Mistake, Schema, closest, unknown_name
from stable_audio_tools.registry.signature import MISSING, Options, Parameter, Part

__all__ = ["MISSING", "Mistake", "Options", "Parameter", "Part", "Registry", "Schema", "closest", "unknown_name"]
