"""Synth: fourteen classes of short sounds, no two alike, made from nothing but random numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stable_audio_tools.demo import drums, tones
from stable_audio_tools.demo.canvas import Canvas, Signal, Take
from stable_audio_tools.demo.captions import CLASSES, caption, check_class, test_prompt

__all__ = ["CLASSES", "NUM_SAMPLES", "SAMPLE_RATE", "Sound", "caption", "make_sound", "render", "test_prompt"]

SAMPLE_RATE = 22050
NUM_SAMPLES = 32768  # 1.49 s
VOICES: dict[str, Callable[[Canvas], Take]] = {
    "kick": drums.kick,
    "snare": drums.snare,
    "closed hat": drums.closed_hat,
    "open hat": drums.open_hat,
    "clap": drums.clap,
    "tom": drums.tom,
    "cowbell": drums.cowbell,
    "bass": tones.bass,
    "pluck": tones.pluck,
    "bell": tones.bell,
    "pad": tones.pad,
    "sweep": tones.sweep,
    "blip": tones.blip,
    "siren": tones.siren,
}


class Sound(NamedTuple):
    """A sound and what it is called.

    Attributes:
        samples: float32 (T,), peak between -6 and -1 dBFS.
        name: Its class, one of `CLASSES`.
        caption: What somebody might write about it.
        traits: What is audibly true of it, as `captions.caption` takes it.
    """

    samples: NDArray[np.float32]
    name: str
    caption: str
    traits: tuple[str, ...]


def make_sound(name: str, rng: np.random.Generator, *, sample_rate: int = SAMPLE_RATE, num_samples: int = NUM_SAMPLES) -> Sound:
    """Synthesise one sound of a class, with a caption that is true of it.

    Args:
        name: One of `CLASSES`.
        rng: Source of all randomness; the same state gives the same sound.
        sample_rate: In Hz.
        num_samples: Length, in samples.

    Raises:
        ConfigError: If there is no such class.

    >>> make_sound("kick", np.random.default_rng(0)).samples.shape
    (32768,)
    """
    check_class(name)
    canvas = Canvas(rng, sample_rate, num_samples)
    take = VOICES[name](canvas)
    peak_db = canvas.uniform(-6.0, -1.0)
    return Sound(finished(canvas, take.signal, peak_db=peak_db), name, caption(name, rng, traits=take.traits), tuple(take.traits))


def render(name: str, rng: np.random.Generator, *, sample_rate: int = SAMPLE_RATE, num_samples: int = NUM_SAMPLES) -> NDArray[np.float32]:
    """The samples of `make_sound`, float32 (T,)."""
    return make_sound(name, rng, sample_rate=sample_rate, num_samples=num_samples).samples


def finished(canvas: Canvas, signal: Signal, *, peak_db: float) -> NDArray[np.float32]:
    """Fade the edges (0.5 ms in, 15 ms out, so that neither clicks) and set the peak level; (T,) -> float32 (T,)."""
    fade_in = np.minimum(canvas.time / 0.0005, 1.0)
    fade_out = np.clip((canvas.duration_seconds - canvas.time) / 0.015, 0.0, 1.0) ** 2
    faded = signal * fade_in * fade_out
    return (faded * (10 ** (peak_db / 20) / np.abs(faded).max())).astype(np.float32)
