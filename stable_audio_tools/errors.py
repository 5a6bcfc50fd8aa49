"""Every error that a user of the library can cause.

::

    StableAudioError
    |-- ConfigError          a config file says something impossible        (also a ValueError)
    |-- CheckpointError      a weights file is broken or does not fit        (also a ValueError)
    |-- AudioError           an audio file or tensor cannot be used          (also a ValueError)
    |-- DataError            a dataset has nothing usable in it              (also a ValueError)
    |-- TrainingError        a run cannot go on                              (also a RuntimeError)
    `-- MissingExtraError    an optional dependency is not installed         (also an ImportError)

A message says where, what was wrong, what was given, and what is allowed or what to do next; `counted` is for its numbers.
"""

from __future__ import annotations


class StableAudioError(Exception):
    """Base of all errors raised on purpose by this library."""


class ConfigError(StableAudioError, ValueError):
    """A configuration is wrong. The message holds one line per mistake, in file order."""


class CheckpointError(StableAudioError, ValueError):
    """A checkpoint cannot be read, or does not fit the model it is meant for."""


class AudioError(StableAudioError, ValueError):
    """Audio cannot be decoded, encoded or used as asked. The message names the file when there is one."""


class DataError(StableAudioError, ValueError):
    """A dataset cannot deliver what was asked of it."""


class TrainingError(StableAudioError, RuntimeError):
    """Training cannot go on: a loss is not finite, or memory has run out."""


class MissingExtraError(StableAudioError, ImportError):
    """An optional dependency is needed and not installed."""


def counted(count: int, one: str, many: str | None = None) -> str:
    """How many there are, in words that agree, for messages.

    Args:
        count: How many.
        one: What one of them is called.
        many: What others are called; with an ``s`` if None.

    >>> counted(1, "file"), counted(0, "file"), counted(3, "entry", "entries")
    ('1 file', '0 files', '3 entries')
    """
    return f"{count} {one if count == 1 else many or one + 's'}"
