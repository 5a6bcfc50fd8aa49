"""Decoders: which of the two reads a file, and what both can do."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

import numpy as np
import soundfile  # pyright: ignore[reportMissingTypeStubs]
from numpy.typing import NDArray

from stable_audio_tools.audio.ffmpeg import FfmpegFile
from stable_audio_tools.audio.libsndfile import MAGICS, SndFile
from stable_audio_tools.errors import AudioError

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


class Decoder(Protocol):
    """An open audio file. Frames are samples per channel, counted from the first that is audible after codec delay."""

    sample_rate: int
    """Frames per second, in Hz."""
    num_channels: int
    format: str
    """Container and codec, such as ``"WAV/PCM_16"``, ``"MP3"`` or ``"mov/aac"``."""

    def count_frames(self) -> int:
        """The exact number of frames: what :meth:`read` would return of all, found without decoding all where possible."""
        ...

    def read(self, start: int, num_frames: int | None) -> NDArray[np.float32]:
        """(C, T) samples from frame ``start`` on, exactly as in a decode of the whole file; None reads to the end.

        T is smaller than ``num_frames``, possibly 0, only where the file ends.
        """
        ...

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """All samples from the beginning, as consecutive (C, T) blocks of some seconds: what :meth:`read` returns, in little memory."""
        ...


def decode(path: str | os.PathLike[str], use: Callable[[Decoder], Result]) -> Result:
    """Open ``path`` by what is in it, not by its name, and return ``use(decoder)``.

    libsndfile comes first for its own formats; ffmpeg gets the rest, and what libsndfile refuses at any point of ``use``.

    Raises:
        AudioError: If there is no such file, or no decoder can read it.
    """
    name = os.fspath(path)
    if _is_for_libsndfile(name):
        try:
            with SndFile(name) as file:
                return use(file)
        except soundfile.SoundFileError as error:
            logger.debug("%s: libsndfile cannot decode it (%s), trying ffmpeg", name, error)
    with FfmpegFile(name) as file:
        return use(file)


def _is_for_libsndfile(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            head = file.read(64)
    except OSError as error:
        raise AudioError(f"{path}: cannot be opened: {error.strerror}; expected an audio file that may be read") from error
    return head.startswith(MAGICS) and b"OpusHead" not in head
