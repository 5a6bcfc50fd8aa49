"""Audio on plain tensors (..., C, T); the only package that knows about files and sample rates."""

from stable_audio_tools.audio.channels import force_channels, set_audio_channels, to_mono, to_stereo
from stable_audio_tools.audio.crop import Crop, CropPlan, apply_crop, normalized_crop, pad_crop, plan_crop, plan_crop_at, random_crop_start
from stable_audio_tools.audio.io import AUDIO_EXTENSIONS, Audio, AudioInfo, OpenAudio, load, probe, save, use_audio
from stable_audio_tools.audio.loudness import loudness_lufs, normalizing_gain
from stable_audio_tools.audio.measure import SILENCE_DB, Measurement, decibels, measure
from stable_audio_tools.audio.pcm import from_int16, to_int16
from stable_audio_tools.audio.prepare import peak_normalize, prepare_audio
from stable_audio_tools.audio.resample import resample
from stable_audio_tools.audio.tags import read_metadata

__all__ = [
    "AUDIO_EXTENSIONS",
    "SILENCE_DB",
    "Audio",
    "AudioInfo",
    "Crop",
    "CropPlan",
    "Measurement",
    "OpenAudio",
    "apply_crop",
    "decibels",
    "force_channels",
    "from_int16",
    "load",
    "loudness_lufs",
    "measure",
    "normalized_crop",
    "normalizing_gain",
    "pad_crop",
    "peak_normalize",
    "plan_crop",
    "plan_crop_at",
    "prepare_audio",
    "probe",
    "random_crop_start",
    "read_metadata",
    "resample",
    "save",
    "set_audio_channels",
    "to_int16",
    "to_mono",
    "to_stereo",
    "use_audio",
]
